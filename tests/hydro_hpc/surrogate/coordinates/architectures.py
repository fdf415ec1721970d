"""Small models whose widths grow unequally: `inner` is never a fixed multiple of `width`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY: Final = 32
TOKENS: Final = 12
CLASSES: Final = 10


def inner(width: int) -> int:
    return 96 + width // 2


class Perceptron(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(20, width)
        self.up, self.down = nn.Linear(width, inner(width)), nn.Linear(inner(width), width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.up(self.first(x).relu()).relu()).relu()
        found: Tensor = self.head(x)
        return found


class Residual(nn.Module):
    def __init__(self, width: int, out: int, between: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, between, 3, stride, 1, bias=False)
        self.norm_a = nn.BatchNorm2d(between)
        self.b = nn.Conv2d(between, out, 3, 1, 1, bias=False)
        self.norm_b = nn.BatchNorm2d(out)
        self.short: nn.Module = nn.Identity()
        if width != out:
            conv = nn.Conv2d(width, out, 1, stride, bias=False)
            self.short = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_b(self.b(self.norm_a(self.a(x)).relu()))
        return functional.relu(y + self.short(x))


class ResNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        between = 24 + width // 2
        self.stem, self.norm = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.one = Residual(width, width, between, 1)
        self.two = Residual(width, 2 * width, between, 2)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.norm(self.stem(x)).relu()))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class Attention(nn.Module):
    """`scale` None: as torch does, one over the root of a head's size."""

    def __init__(self, width: int, heads: int, scale: float | None) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        found: Tensor = self.o(y.transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    def __init__(self, width: int, heads: int, scale: float | None) -> None:
        super().__init__()
        self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, scale)
        self.up, self.down = nn.Linear(width, inner(width)), nn.Linear(inner(width), width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_a(x))
        found: Tensor = x + self.down(functional.gelu(self.up(self.norm_b(x))))
        return found


class GPT(nn.Module):
    """`head_size`: heads of this size, more of them in a wider model; None: two heads that grow,
    their logits scaled with the root of their size if `by_root`, else with the size, to be the same
    at the target's width.
    """

    def __init__(
        self,
        width: int = 64,
        *,
        layers: int = 1,
        head_size: int | None = 8,
        by_root: bool = False,
        target: int = 64,
    ) -> None:
        super().__init__()
        heads, scale = (2, None) if head_size is None else (width // head_size, None)
        if head_size is None and not by_root:
            scale = math.sqrt(target // heads) / (width // heads)
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(TOKENS, width)
        self.blocks = nn.Sequential(*(Block(width, heads, scale) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.places(torch.arange(x.size(1)))
        found: Tensor = self.head(self.norm(self.blocks(x)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """`example` and `targets` are one tiny batch; `is_shown` if only that says how raw parameters
    are used.
    """

    factory: Callable[..., nn.Module]
    target: int
    widths: tuple[int, ...]
    example: Tensor
    targets: Tensor
    is_shown: bool = False


def _drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _text() -> tuple[Tensor, Tensor]:
    text = torch.randint(VOCABULARY, (4, TOKENS + 1), generator=_drawn())
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


def _gpt(factory: Callable[..., nn.Module]) -> Case:
    example, targets = _text()
    widths = (16, 32, 64, 128)
    return Case(factory=factory, target=64, widths=widths, example=example, targets=targets)


CASES: Final[dict[str, Case]] = {
    "mlp": Case(
        factory=Perceptron,
        target=64,
        widths=(16, 32, 64, 128, 256),
        example=torch.randn(16, 20, generator=_drawn()),
        targets=torch.randint(CLASSES, (16,), generator=_drawn()),
    ),
    "resnet": Case(
        factory=ResNet,
        target=16,
        widths=(8, 16, 32, 64),
        example=torch.randn(8, 3, 8, 8, generator=_drawn()),
        targets=torch.randint(CLASSES, (8,), generator=_drawn()),
    ),
    "gpt": _gpt(GPT),
    "gpt of growing heads": _gpt(partial(GPT, head_size=None)),
}
WRONG_ATTENTION: Final = _gpt(partial(GPT, head_size=None, by_root=True))
