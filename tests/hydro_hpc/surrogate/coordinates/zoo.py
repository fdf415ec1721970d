"""Models of many kinds, written as their owners would, whose right surrogates must raise no alarm.

All are functions of a width, with a tiny batch; their inner widths grow unequally.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.hydro_hpc.surrogate.coordinates.architectures import (
    CLASSES,
    TOKENS,
    VOCABULARY,
    Block,
    Case,
    inner,
)

HEAD_SIZE: Final = 8
LATENT: Final = 6


def perceptron(width: int = 256, *, norm: Callable[[int], nn.Module] | None = None) -> nn.Module:
    """Of widths 256, 768 and 128."""
    sizes = [20, width, 3 * width, width // 2]
    layers: list[nn.Module] = []
    for taken, given in itertools.pairwise(sizes):
        layers += [nn.Linear(taken, given), *([norm(given)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES))


class ViT(nn.Module):
    """The class token and the places are parameters of the model itself."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 5, width))
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_SIZE, None) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.places
        found: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return found


class Depthwise(nn.Module):
    """Convolutions by channel and by point, with GroupNorm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        between = 24 + width // 2
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.GroupNorm(4, width))
        self.spatial = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.up, self.norm = nn.Conv2d(width, between, 1), nn.GroupNorm(4, between)
        self.down = nn.Conv2d(between, width, 1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.down(functional.gelu(self.norm(self.up(self.spatial(x)))))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class TiedGPT(nn.Module):
    """Without biases in its blocks' ends, its readout the table of its tokens."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(TOKENS, width)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_SIZE, None) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.places(torch.arange(x.size(1)))
        found: Tensor = self.head(self.norm(self.blocks(x)))
        return found


class Recurrent(nn.Module):
    def __init__(self, width: int = 64, *, kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.memory = kind(16, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.memory(self.tokens(x))[0])
        return found


class Translator(nn.Module):
    """Encoder and decoder of torch's own layers, with attention across."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        heads = width // HEAD_SIZE
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(TOKENS, width)
        self.encoder = nn.TransformerEncoderLayer(
            width, heads, inner(width), 0.1, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoderLayer(width, heads, inner(width), 0.1, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.places(torch.arange(x.size(1)))
        found: Tensor = self.head(self.decoder(x, self.encoder(x.flip(1))))
        return found


class Autoencoder(nn.Module):
    """Of images, with transposed convolutions behind a code of a fixed size."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        between = 24 + width // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, between, 3, 2, 1), nn.ReLU()
        )
        self.code = nn.Linear(4 * between, LATENT)
        self.open = nn.Linear(LATENT, 4 * between)
        self.decoder = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(between, width, 2, 2), nn.ReLU())
        self.paint = nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        code = self.code(self.encoder(x).flatten(1))
        found: Tensor = self.paint(self.decoder(self.open(code).unflatten(1, (-1, 2, 2))))
        return found


def _drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _case(
    factory: Callable[..., nn.Module], target: int, widths: tuple[int, ...], example: Tensor
) -> Case:
    is_text = not example.is_floating_point()
    number = (4, TOKENS) if is_text else (len(example),)
    classes = VOCABULARY if is_text else CLASSES
    targets = torch.randint(classes, number, generator=_drawn())
    if isinstance(factory, type) and issubclass(factory, Autoencoder):
        targets = example
    return Case(
        factory=factory,
        target=target,
        widths=widths,
        example=example,
        targets=targets,
        is_shown=factory is ViT,
    )


ROWS: Final = torch.randn(16, 20, generator=_drawn())
IMAGES: Final = torch.randn(8, 3, 8, 8, generator=_drawn())
TEXT: Final = torch.randint(VOCABULARY, (4, TOKENS), generator=_drawn())
PERCEPTRON: Final = (32, 64, 128, 256)
NARROW: Final = (16, 32, 64, 128)

ZOO: Final[dict[str, Case]] = {
    "mlp of unequal widths": _case(perceptron, 256, PERCEPTRON, ROWS),
    "mlp with LayerNorm": _case(partial(perceptron, norm=nn.LayerNorm), 256, PERCEPTRON, ROWS),
    "mlp with BatchNorm": _case(partial(perceptron, norm=nn.BatchNorm1d), 256, PERCEPTRON, ROWS),
    "vit": _case(ViT, 64, NARROW, IMAGES),
    "depthwise convolutions": _case(Depthwise, 32, NARROW, IMAGES),
    "tied gpt": _case(TiedGPT, 64, NARROW, TEXT),
    "lstm": _case(Recurrent, 64, NARROW, TEXT),
    "gru": _case(partial(Recurrent, kind=nn.GRU), 64, NARROW, TEXT),
    "encoder and decoder": _case(Translator, 64, NARROW, TEXT),
    "autoencoder": _case(Autoencoder, 32, NARROW, IMAGES),
}
