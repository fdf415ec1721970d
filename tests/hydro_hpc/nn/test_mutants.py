"""The comparison with separate modules notices what a wrong rule would do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from hydro_hpc.nn import BatchNorm, functional, shapes
from hydro_hpc.nn.activation import ELEMENTWISE, Elementwise, RReLU
from hydro_hpc.nn.masks import Masks
from tests.hydro_hpc.nn.cases import CASES
from tests.hydro_hpc.nn.separate_modules import compare

Function = Callable[..., Tensor]

WITHOUT_EFFECT: Final = {"identity", "dropout of nothing"}


def neighbours_input(right: Function) -> Function:
    return lambda x, *args, **kwargs: right(_neighbours(x), *args, **kwargs)


def neighbours_parameters(right: Function) -> Function:
    def wrong(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return right(x, *map(_neighbours, args), **{k: _neighbours(v) for k, v in kwargs.items()})

    return wrong


def mean_over_slots(right: Function) -> Function:
    return lambda *args, **kwargs: _mean(right(*args, **kwargs))


def _neighbours(x: Any) -> Any:
    return x.roll(1, 0) if isinstance(x, Tensor) else x


def _mean(y: Tensor) -> Tensor:
    return (y.mean(0, keepdim=True) + 0 * y) if y.is_floating_point() else y[:1].expand_as(y)


class Calls:
    """Wraps every function that modules look up in a place, and counts what is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.count = 0

    def replace(self, place: Any, name: str, mutant: Callable[[Function], Function]) -> None:
        wrong = mutant(getattr(place, name))

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return wrong(*args, **kwargs)

        self.monkeypatch.setattr(place, name, counted)


def by_function() -> list[str]:
    """The cases whose modules call a function of ours."""
    names = []
    for name, case in CASES.items():
        with pytest.MonkeyPatch.context() as patch:
            calls = Calls(patch)
            for function in functional.__all__:
                calls.replace(functional, function, lambda right: right)
            compare(case, training=True)
        if calls.count:
            names.append(name)
    return names


BY_FUNCTION: Final = by_function()
HAS_PARAMETERS: Final = [
    name
    for name in BY_FUNCTION
    if list(CASES[name].make().parameters()) or len(CASES[name].shapes) > 1
]


@pytest.mark.parametrize("mutant", [neighbours_input, mean_over_slots])
@pytest.mark.parametrize("name", BY_FUNCTION)
def test_a_function_that_mixes_slots_is_found(
    name: str, mutant: Callable[[Function], Function], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    for function in functional.__all__:
        calls.replace(functional, function, mutant)
    with pytest.raises(AssertionError, match="not close"):
        compare(CASES[name], training=True)


@pytest.mark.parametrize("name", HAS_PARAMETERS)
def test_a_neighbours_parameters_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    for function in functional.__all__:
        calls.replace(functional, function, neighbours_parameters)
    with pytest.raises(AssertionError, match="not close"):
        compare(CASES[name], training=True)


OTHERS: Final = {
    **dict.fromkeys(("flatten", "flatten all", "flatten the first"), (shapes, "flatten")),
    **dict.fromkeys(("unflatten", "unflatten the last"), (shapes, "unflatten")),
    **{
        name: (Masks, "kept" if "alpha" in name else "scale")
        for name in CASES
        if "dropout" in name and name not in WITHOUT_EFFECT and "of all" not in name
    },
    **dict.fromkeys(
        (
            "attention with dropout",
            "attention with dropout without weights",
            "encoder layer",
            "rnn with relu",
            "lstm with everything",
        ),
        (Masks, "scale"),
    ),
    **dict.fromkeys(("random slopes", "random slopes in place"), (RReLU, "_slopes")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_wrong_parts_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour's rows for shapes; one more step of the stream for what is random."""
    place, part = OTHERS[name]
    right = getattr(place, part)

    def wrong(*args: Any, **kwargs: Any) -> Tensor:
        return _neighbours(right(*args, **kwargs))

    monkeypatch.setattr(place, part, wrong)
    with pytest.raises(AssertionError, match="not close"):
        compare(CASES[name], training=True)


def test_an_axis_off_by_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "inner_dim", lambda _x, dim: dim)
    monkeypatch.setattr(functional.activation, "inner_dim", lambda _x, dim: dim)
    for name in ("softmax over channels", "glu over channels", "cosine similarity"):
        with pytest.raises((AssertionError, RuntimeError)):
            compare(CASES[name], training=True)


def test_one_slope_for_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = functional.prelu
    monkeypatch.setattr(functional, "prelu", lambda x, w: right(x, w[:1].expand_as(w)))
    with pytest.raises(AssertionError, match="not close"):
        compare(CASES["slopes by channel"], training=True)


def test_a_sum_over_slots_of_an_activation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Elementwise.forward
    monkeypatch.setattr(Elementwise, "forward", lambda self, x: _mean(right(self, x)))
    with pytest.raises(AssertionError, match="not close"):
        compare(CASES["gelu by tanh"], training=True)


def test_one_momentum_for_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchNorm, "_momentum", lambda _: 0.1)
    with pytest.raises(AssertionError, match="not close"):
        compare(CASES["batch norm that averages all"], training=True)


def test_everything_is_covered() -> None:
    elementwise = {name for name, case in CASES.items() if _is_elementwise(case.make())}
    of_all = {"dropout of all", "alpha dropout of all"}
    assert set(CASES) == {*BY_FUNCTION, *OTHERS, *WITHOUT_EFFECT, *elementwise, *of_all}


def _is_elementwise(module: torch.nn.Module) -> bool:
    return type(module) in ELEMENTWISE
