"""The models that `benchmarks/fusion.py` times: written for one trial, in the usual forms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hydro_hpc.fusion.models.torchvision_style import (
    BasicBlock,
    Bottleneck,
    InvertedResidual,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`batch()` gives one model's (inputs, targets); `optimizer` and its settings are torch's, and
    the settings those of the first trial: each trial has a learning rate of its own.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    optimizer: str = "SGD"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"lr": 0.01, "momentum": 0.9})
    most_slots: int = 32

    def settings_of(self, trial: int) -> dict[str, Any]:
        return {**self.settings, "lr": self.settings["lr"] * (1 + trial / self.most_slots)}


def perceptron(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class ResNet(nn.Module):
    """For images of 32 pixels, as for CIFAR; `width` channels in its first stage (64 in full)."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], layers: list[int], width: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        channels = width
        for number, count in enumerate(layers):
            planes = width * 2**number
            for place in range(count):
                stride = 2 if number and not place else 1
                fan_out = planes * block.expansion
                down = None
                if stride != 1 or channels != fan_out:
                    down = nn.Sequential(
                        nn.Conv2d(channels, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
                    )
                stages.append(block(channels, planes, stride, down))
                channels = fan_out
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class MobileNet(nn.Module):
    """Depthwise convolutions, squeeze and excitation, inverted residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            InvertedResidual(8, 8, 1, 4),
            InvertedResidual(8, 16, 2, 4),
            InvertedResidual(16, 16, 1, 4),
        )
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(64, 32), nn.LSTM(32, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(tokens))
        return self.head(hidden[:, -1])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).contiguous().view(b, t, c))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """In the manner of nanoGPT: positions from the length, the read-out tied to the embedding."""

    def __init__(
        self, *, vocabulary: int, width: int, heads: int, layers: int, length: int
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.h = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.wte.weight = self.head.weight

    def forward(self, tokens: Tensor) -> Tensor:
        _, length = tokens.size()
        x = self.wte(tokens) + self.wpe(torch.arange(length, device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.head(self.ln_f(x)).flatten(0, 1)


def vectors(batch: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, width), torch.randint(0, 10, (batch,))


def images(batch: int, size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))


def text(batch: int, length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, vocabulary, (batch, length + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)


def sentences(batch: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 64, (batch, length)), torch.randint(0, 10, (batch,))


ADAM: Final = {"lr": 1e-3}
CASES: Final[dict[str, Case]] = {
    "mlp": Case(
        make=lambda: perceptron(64, 64, 64, 10),
        batch=lambda: vectors(32, 64),
        optimizer="Adam",
        settings=ADAM,
    ),
    "gpt": Case(
        make=lambda: GPT(vocabulary=64, width=32, heads=2, layers=2, length=32),
        batch=lambda: text(8, 32, 64),
        optimizer="AdamW",
        settings=ADAM,
    ),
    "mlp 256": Case(
        make=lambda: perceptron(64, 256, 256, 10),
        batch=lambda: vectors(32, 64),
        optimizer="Adam",
        settings=ADAM,
    ),
    "gpt 128": Case(
        make=lambda: GPT(vocabulary=256, width=128, heads=4, layers=2, length=64),
        batch=lambda: text(8, 64, 256),
        optimizer="AdamW",
        settings=ADAM,
        most_slots=16,
    ),
    "cnn": Case(make=convolutions, batch=lambda: images(16, 32)),
    "resnet18/8": Case(
        make=lambda: ResNet(BasicBlock, [2, 2, 2, 2], 8),
        batch=lambda: images(16, 32),
        most_slots=16,
    ),
    "resnet50/8": Case(
        make=lambda: ResNet(Bottleneck, [3, 4, 6, 3], 8),
        batch=lambda: images(8, 32),
        most_slots=8,
    ),
    "mobilenet": Case(make=MobileNet, batch=lambda: images(8, 32), most_slots=16),
    "lstm": Case(
        make=LSTMClassifier,
        batch=lambda: sentences(16, 16),
        optimizer="Adam",
        settings=ADAM,
        most_slots=16,
    ),
}
