"""Models that are built for us and for mup alike: the readout's class is an argument.

Their layers are width and width + a constant wide, so that the ratios of in and out axes differ.
"""

from __future__ import annotations

from collections.abc import Callable

import mup
import torch
from torch import Tensor, nn

from hydro_hpc.surrogate import Surrogate, shrink

TARGET, NARROW = 128, 32
Readout = type[nn.Linear]


Make = Callable[[int, Readout], nn.Module]


class Perceptron(nn.Module):
    def __init__(self, width: int, readout: Readout) -> None:
        super().__init__()
        self.into = nn.Linear(20, width)
        self.hidden = nn.Linear(width, 3 * width + 40)
        self.norm = nn.LayerNorm(3 * width + 40)
        self.back = nn.Linear(3 * width + 40, width, bias=False)
        self.out = readout(width, 10)


class Residual(nn.Module):
    """A ResNet's block with its shortcut, a depthwise block with squeeze and excitation."""

    def __init__(self, width: int, readout: Readout) -> None:
        super().__init__()
        wide = 2 * width + 16
        self.stem = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, wide, 3, stride=2, bias=False)
        self.second = nn.Conv2d(wide, wide, 3)
        self.shortcut = nn.Conv2d(width, wide, 1, stride=2)
        self.depthwise = nn.Conv2d(wide, wide, 3, groups=wide)
        self.grouped = nn.Conv2d(wide, 2 * width, 3, groups=4)
        self.groups = nn.GroupNorm(4, 2 * width)
        self.slope = nn.PReLU(2 * width)
        self.squeeze = nn.Linear(2 * width, width // 4 + 8)
        self.excite = nn.Linear(width // 4 + 8, 2 * width)
        self.out = readout(2 * width, 10)


class Language(nn.Module):
    def __init__(self, width: int, readout: Readout) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.places = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.start = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, 4)
        self.norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width + 24)
        self.down = nn.Linear(4 * width + 24, width)
        self.out = readout(width, 50, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.tokens(tokens) + self.places + self.start
        return x


class TiedLanguage(Language):
    def __init__(self, width: int, readout: Readout) -> None:
        super().__init__(width, readout)
        self.out.weight = self.tokens.weight


class Heads(nn.Module):
    """Two inputs, two heads, attention over keys of another size."""

    def __init__(self, width: int, readout: Readout) -> None:
        super().__init__()
        self.image = nn.Linear(20, width)
        self.words = nn.EmbeddingBag(50, width + 8)
        self.cross = nn.MultiheadAttention(width, 4, kdim=width + 8, vdim=width)
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width + 8)
        self.auxiliary = readout(width, 3)
        self.out = readout(width, 1)


MODELS: tuple[Make, ...] = (Perceptron, Residual, Language, TiedLanguage, Heads)


def oracle(make: Make, *, rescaled: bool) -> nn.Module:
    """Mup's model at the narrow width, its base the target."""
    model = make(NARROW, mup.MuReadout)
    base, delta = make(TARGET, mup.MuReadout), make(2 * TARGET, mup.MuReadout)
    mup.set_base_shapes(model, base, delta=delta, rescale_params=rescaled)
    return model


def ours(make: Make) -> Surrogate:
    return shrink(factory(make), width=NARROW)


def factory(make: Make) -> Callable[..., nn.Module]:
    return lambda width=TARGET: make(width, nn.Linear)


def values(build: Callable[[], nn.Module], draws: int) -> dict[str, Tensor]:
    """Of every parameter, over several seeds, of one model each."""
    drawn: dict[str, list[Tensor]] = {}
    for seed in range(draws):
        torch.manual_seed(seed)
        for name, parameter in build().named_parameters():
            drawn.setdefault(name, []).append(parameter.detach().flatten())
    return {name: torch.cat(some) for name, some in drawn.items()}
