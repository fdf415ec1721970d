"""Models and examples that cannot be followed, each refused in one sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import check, shrink

ROWS = torch.randn(4, 8)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


class LowRank(nn.Module):
    """A weight of two factors of a fixed rank."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight[:, :4].clone(), weight[:4].clone()


def with_parametrization(parametrization: nn.Module) -> Callable[[nn.Linear], nn.Module]:
    def change(layer: nn.Linear) -> nn.Module:
        return parametrize.register_parametrization(layer, "weight", parametrization)

    return change


CHANGES: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "orthogonal": parametrizations.orthogonal,
    "cayley": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
    "spectral": parametrizations.spectral_norm,
    "old spectral": torch.nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "symmetric": with_parametrization(Symmetric()),
    "low rank": with_parametrization(LowRank()),
}


def refused(said: str, model: Any, example: Any, **options: Any) -> None:
    with pytest.raises(ShrinkError, match=said) as raised:
        shrink(model, by=4, example=example, **options)
    assert not re.search(r"\n|\. |\.;", str(raised.value)), str(raised.value)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*is deprecated")
def test_parametrizations_without_a_rule_are_refused_by_path(name: str) -> None:
    def build(width: int = 64) -> nn.Module:
        layer = CHANGES[name](nn.Linear(width, width))
        return nn.Sequential(nn.Linear(8, width), layer, nn.Linear(width, 3))

    said = r"^'1' computes its 'weight' from '1\..*', and how that scales with the width"
    refused(said, build(), ROWS)
    refused(said, build, None)


def layers(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


MODEL = layers()
TABLE = nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 3))


class Checked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = MODEL

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 8:
            raise ValueError(f"rows of {x.shape[1]}.\nThey have 8. See the manual.")
        return self.layers(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "example", "reason"),
    [
        (MODEL, torch.randn(4, 9), r"RuntimeError: .*\(4x9 and 8x64\)"),
        (MODEL, torch.ones(4, 8, dtype=torch.long), r"RuntimeError: .* dtype, .*Long and Float"),
        (MODEL, (ROWS, ROWS), r"TypeError: .* takes 2 positional arguments but 3 were given"),
        (MODEL, "rows", r"TypeError: .* must be Tensor, not str"),
        (TABLE, ROWS, r"RuntimeError: Expected .* Long, Int; but got torch\.FloatTensor .*"),
        (TABLE, torch.full((4, 8), 20), r"IndexError: index out of range in self"),
        (Checked(), torch.randn(4, 9), r"ValueError: rows of 9"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_and_nothing_else_is_said(
    model: nn.Module, example: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    at = r" at test_refused\.py, line \d+" if isinstance(model, Checked) else ""
    said = rf"^example= does not fit the model, a call of which fails{at} \({reason}\); give what"
    refused(said, model, example)
    if model is MODEL:
        refused(said, layers, example)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("model", [3, None, "model", torch.ones(2)])
def test_what_is_no_model_is_refused(model: Any) -> None:
    refused(rf"^what is shrunk is of type {type(model).__name__}: give a model, or", model, ROWS)


class Both(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 64), nn.Linear(8, size)
        self.both, self.out = nn.Bilinear(64, size, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.both(self.a(x), self.b(x)))  # type: ignore[no-any-return]


def test_products_of_two_wide_inputs_are_refused_and_those_of_one_are_followed() -> None:
    refused(
        r"^both inputs of 'both' grow with the width, .*; keep the size of one, .* by keep= ",
        Both(64),
        ROWS,
    )
    kept = shrink(Both(12), by=4, example=ROWS, keep=["b"]).module
    assert kept.both.weight.shape == (4, 16, 12)
    assert (kept.both.in1_features, kept.both.in2_features) == (16, 12)
    assert kept(ROWS).shape == (4, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_what_has_no_code_or_no_sizes_to_follow_is_refused() -> None:
    compiled = torch.jit.script(layers())
    refused("^the model was compiled by torch.jit, .*: shrink the model that", compiled, ROWS)
    inside = nn.Sequential(layers(), compiled)
    refused("^'1' was compiled by torch.jit, ", inside, ROWS)
    lazy = nn.Sequential(nn.LazyLinear(64), nn.Linear(64, 3))
    refused("^'0.weight' is of a lazy layer and has no size yet: call the model once", lazy, ROWS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": 5}, r"^keep= has what is of type int: give a list of names of modules or"),
        ({"keep": [0]}, r"^keep= has what is of type int: give a list of names of modules or"),
        ({"keep": "0"}, r"^keep='0' is one string: give a list of names, as keep=\['0'\]$"),
        ({"keep": ["2.weigth"]}, r"^keep= names '2.weigth', which is no .*, such as '2.weight'$"),
        ({"uses": ["x"]}, r"^uses= is of type list: say of raw parameters, by name, which of"),
        ({"uses": {2: None}}, r"^uses= names a parameter by what is of type int: say of raw"),
        ({"uses": {"2.weight": "a"}}, r"^uses= says 'a' of '2.weight': say of raw parameters"),
        ({"uses": {"2.weight": (0, 1.5)}}, r"^uses= says \(0, 1.5\) of '2.weight': say of raw"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(options: dict[str, Any], said: str) -> None:
    refused(said, layers(), ROWS, **options)
    if "uses" in options:
        refused(said, layers, None, **options)
    with pytest.raises(ShrinkError, match=said):
        check(layers(), example=ROWS, **options)


@pytest.mark.parametrize(("by", "left"), [(64, "1"), (1000, "0.064")])
def test_a_ratio_that_not_even_the_largest_width_has_is_refused(by: int, left: str) -> None:
    said = (
        rf"^by={by} leaves {left} of the model's largest width, the 64 of '0.weight', and one unit "
        "learns nothing as its target does; divide by 32 or less$"
    )
    with pytest.raises(ShrinkError, match=said):
        shrink(layers(), by=by, example=ROWS)
    wider = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 256), nn.Linear(256, 3))
    report = shrink(wider, by=64, example=ROWS).report
    assert [str(width) for width in report.widths] == [
        "0.weight and 2 more: 64 -> 2, by 32 where 64 was asked for",
        "1.weight and 2 more: 256 -> 4",
    ]
