"""Small models in the forms that people write, for tests. Inputs are [5, ...]: batch 5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH: Final = 5
CLASSES: Final = 4


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, CLASSES))


def mlp_with_norms_and_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8, bias=False),  # before a BatchNorm it would be noise under Adam
        nn.BatchNorm1d(8),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(8, 7),
        nn.LayerNorm(7),
        nn.Tanh(),
        nn.Linear(7, CLASSES),
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
        nn.LogSoftmax(dim=1),
    )


class ResidualNet(nn.Module):
    """Functional calls, arithmetic, a raw parameter, a view by size, self.training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Conv2d(4, 4, 1)
        self.gain = nn.Parameter(torch.rand(4, 1, 1))
        self.head = nn.Linear(4 * 3 * 3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.gain * self.mix(x)
        x = F.max_pool2d(x, 2)
        x = x.view(x.size(0), -1)
        x = F.dropout(x, 0.2, self.training)
        return self.head(x)


class Tokens(nn.Module):
    """Embedding with a padding index, tied to the read-out, and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=0)
        self.between = nn.Linear(6, 6)
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.read_out = nn.Linear(6, 11, bias=False)
        self.read_out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.frozen(torch.tanh(self.between(x)))
        return self.read_out(x.mean(dim=1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(2, 5)

    def forward(self, a: Tensor, b: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        hidden = self.left(a) * scale - self.right(b)
        return {"hidden": hidden, "mean": hidden.mean(1)}


def images(*lead: int) -> Tensor:
    return torch.randn(*lead, BATCH, 2, 6, 6, dtype=torch.float64)


def vectors(*lead: int) -> Tensor:
    return torch.randn(*lead, BATCH, 6, dtype=torch.float64)


def tokens(*lead: int) -> Tensor:
    return torch.randint(0, 11, (*lead, BATCH, 7))


Case = tuple[Callable[[], nn.Module], Callable[..., Tensor]]

CASES: Final[dict[str, Case]] = {
    "mlp": (mlp, vectors),
    "mlp_with_norms_and_dropout": (mlp_with_norms_and_dropout, vectors),
    "cnn": (cnn, images),
    "residual": (ResidualNet, images),
    "tokens": (Tokens, tokens),
}


def build(make: Callable[[], nn.Module], slots: int) -> list[nn.Module]:
    """`slots` models in double precision, all with different values."""
    return [make().double() for _ in range(slots)]


def randomize_buffers(models: Sequence[nn.Module]) -> None:
    """Running statistics that differ, so that a mixed-up slot shows in evaluation."""
    for model in models:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))


def batch(slots: int) -> tuple[Tensor, Tensor]:
    """Inputs and classes for every slot."""
    x = vectors(slots)
    return x, torch.randint(0, CLASSES, x.shape[:2])
