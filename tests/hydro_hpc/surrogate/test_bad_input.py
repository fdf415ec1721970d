"""Factories and models that cannot be shrunk, each refused in a sentence that names the thing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink

TARGET, NARROW = 64, 16
Factory = Callable[..., Any]


def layers(width: int, *more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), *more)


def in_heads(width: int = 60) -> nn.Module:
    if width % 6:
        raise ValueError(f"width {width} must be a multiple of 6\nsee the manual")
    return layers(width, nn.Linear(width, 3))


def only_narrow(width: int = TARGET) -> nn.Module:
    if width == TARGET:
        raise KeyError
    return layers(width)


def ignorant(width: int = TARGET) -> nn.Module:
    return nn.Linear(8, 3, bias=width > 0)


class Raw(nn.Module):
    """A weight of its own, without a layer."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.weight = nn.Parameter(torch.randn(width, 5) / width**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.into(x) @ self.weight


class Query(Raw):
    """One axis alone, which is summed over."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.weight = nn.Parameter(torch.randn(width))


class Unreadable(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.table = nn.ParameterList([torch.randn(5, width)])


class Conflicting(nn.Module):
    """One weight that is a readout at one place and leads into the width at the other."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.out = nn.Conv1d(width, TARGET, 1, bias=False)
        self.back = nn.ConvTranspose1d(TARGET, width, 1, bias=False)
        self.back.weight = self.out.weight


class Product(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Bilinear(width, width, 3)


def normed_readout(width: int = TARGET) -> nn.Module:
    return layers(width, parametrizations.weight_norm(nn.Linear(width, 3)))


def old_normed_readout(width: int = TARGET) -> nn.Module:
    with pytest.warns(FutureWarning):
        return layers(width, torch.nn.utils.weight_norm(nn.Linear(width, 3)))


def normed_by_inputs(width: int = TARGET) -> nn.Module:
    return layers(width, parametrizations.weight_norm(nn.Linear(width, width), dim=1))


def spectral(width: int = TARGET) -> nn.Module:
    return layers(width, parametrizations.spectral_norm(nn.Linear(width, width)))


def old_spectral(width: int = TARGET) -> nn.Module:
    return layers(width, torch.nn.utils.spectral_norm(nn.Linear(width, width)))


def orthogonal(width: int = TARGET) -> nn.Module:
    return layers(width, parametrizations.orthogonal(nn.Linear(width, width)))


def pruned(width: int = TARGET) -> nn.Module:
    return layers(width, prune.random_unstructured(nn.Linear(width, width), "weight", 0.5))


class Pretrained(nn.Module):
    VALUES = torch.randn(TARGET, 8, generator=torch.Generator().manual_seed(0))

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, width), nn.Linear(width, 3)
        self.into.weight.data.copy_(self.VALUES[:width].repeat(-(-width // TARGET), 1)[:width])


class FrozenPretrained(Pretrained):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.into.requires_grad_(False)


def same_module(
    width: int = TARGET,
    known: nn.Module = nn.Linear(8, 8),  # noqa: B008
) -> nn.Module | None:
    return known if width else None


def same_parameter(
    width: int = TARGET,
    known: nn.Module = nn.Linear(8, 8),  # noqa: B008
) -> nn.Module:
    return nn.Sequential(known, nn.Linear(8, width))


CASES: list[tuple[Factory, int, str]] = [
    (in_heads, 16, r"fails at width=16 \(ValueError: width 16 must be a multiple of 6\); "),
    (only_narrow, NARROW, r"fails at its default width \(KeyError: no reason given\)"),
    (ignorant, NARROW, r"no width was found"),
    (ignorant, TARGET, r"no width was found"),
    (in_heads, 1, r"width=1 leaves one unit"),
    (in_heads, 0, r"width=0 leaves nothing"),
    (in_heads, -6, r"width=-6 leaves nothing"),
    (lambda width=64: layers(width // 16, nn.Linear(width // 16, 3)), 16, r"'0\.weight' has 1 val"),
    (lambda width=64: layers(width, nn.Linear(width, width // 32)), 16, r"axis 0 of '2\.weight'"),
    (lambda width=TARGET: [nn.Linear(8, width)], NARROW, r"gives list at width=16, which is no"),
    (lambda width=TARGET: print(end="" * width), NARROW, r"gives NoneType at width=16, which is"),
    (same_module, NARROW, r"gives the same model each time"),
    (same_parameter, NARROW, r"gives the same parameter '0\.weight' each time"),
    (lambda width=TARGET: nn.LazyLinear(width), NARROW, r"'weight' is of a lazy module"),
    (lambda width=TARGET: nn.Linear(8, width, device="meta"), NARROW, r"'weight' is on the meta"),
    (lambda width=TARGET: nn.Embedding(width, 8), NARROW, r"'weight' has more rows"),
    (Raw, NARROW, r"'weight' of Raw is used.*uses=\{'weight': None\}.*\(axis that gives"),
    (Query, NARROW, r"'weight' of Query is a factor .* nn\.Linear"),
    (Unreadable, NARROW, r"'table\.0' of ParameterList is used"),
    (Conflicting, NARROW, r"'out\.weight' and .* 'back\.weight', and the rules of these differ"),
    (Product, NARROW, r"both inputs of 'second'"),
    (lambda width=64: nn.MultiheadAttention(8, 2, kdim=width), NARROW, r"inside of MultiheadAtt"),
    (lambda width=TARGET: nn.LSTM(8, width, proj_size=4), NARROW, r"'weight_hr_l0' leads from"),
    (normed_readout, NARROW, r"'2\.parametrizations\.weight\.original1' is of a layer that leads"),
    (old_normed_readout, NARROW, r"'2\.weight_v' is of a layer that leads out"),
    (normed_by_inputs, NARROW, r"'2' computes its 'weight' from '2\.param.*original0', and"),
    (spectral, NARROW, r"'2' computes its 'weight' from '2\.par.*original', and"),
    (old_spectral, NARROW, r"'2' computes its 'weight' from '2\.weight_orig', and"),
    (orthogonal, NARROW, r"'2' computes its 'weight' from '2\.p.*original', and"),
    (pruned, NARROW, r"'2' computes its 'weight' from '2\.weight_orig', and"),
    (Pretrained, NARROW, r"starts from fixed weights: 'into\.weight'"),
    (FrozenPretrained, NARROW, r"starts from fixed weights: 'into\.weight'"),
]


@pytest.mark.parametrize(("factory", "width", "sentence"), CASES)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_what_cannot_be_shrunk_is_refused_in_one_sentence(
    factory: Factory, width: int, sentence: str
) -> None:
    with pytest.raises(ShrinkError) as raised:
        shrink(factory, width=width)
    said = str(raised.value)
    assert re.search(sentence, said), said
    assert "\n" not in said
    assert ". " not in said


@pytest.mark.parametrize("width", [True, 16.0, "16"])
def test_a_width_that_is_no_whole_number_is_refused(width: Any) -> None:
    with pytest.raises(ShrinkError, match=re.escape(f"width={width!r} is no whole number")):
        shrink(in_heads, width=width)


@pytest.mark.parametrize("use", [(0, 0), (0, 2), (-1, 0), (2, 3)])
def test_a_use_that_does_not_fit_is_refused(use: tuple[int, int]) -> None:
    def factory(width: int = TARGET) -> nn.Module:
        return nn.ParameterList([torch.randn(width, width + 8)])  # type: ignore[return-value]

    with pytest.raises(ShrinkError, match=r"'0' has axes \[0, 1\] that grow"):
        shrink(factory, width=NARROW, uses={"0": use})


def test_a_use_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(ShrinkError, match="'wait' in uses="):
        shrink(Raw, width=NARROW, uses={"wait": None})


def test_a_use_of_a_layers_weight_is_refused() -> None:
    """It would take the layer's multiplier away."""

    def factory(width: int = TARGET) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))

    with pytest.raises(ShrinkError, match=r"'2\.weight' in uses= is the weight of a layer, Linear"):
        shrink(factory, width=NARROW, uses={"2.weight": (0, 1)})
