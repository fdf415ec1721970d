"""A model that would do something else than the rest is not taken for one of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion import ExecutorKind, bind
from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.resemblance import first_difference
from tests.hydro_hpc.fusion.architectures import vectors


class Calls(nn.Module):
    """Its middle is whatever it is given."""

    def __init__(self, keep: Callable[[Calls], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.call = keep(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def by_default(gain: float) -> Callable[[Calls], Any]:
    return lambda model: lambda x, gain=gain: gain * model.first(x)


def by_keyword_default(gain: float) -> Callable[[Calls], Any]:
    def keep(model: Calls) -> Any:
        def call(x: Tensor, *, gain: float = gain) -> Tensor:
            return gain * model.first(x)

        return call

    return keep


def by_closure(gain: float) -> Callable[[Calls], Any]:
    return lambda model: lambda x: gain * model.first(x)


def through_a_function(gain: float) -> Callable[[Calls], Any]:
    inner = by_closure(gain)

    def keep(model: Calls) -> Any:
        call = inner(model)
        return lambda x: call(x)

    return keep


def by_partial(gain: float) -> Callable[[Calls], Any]:
    return lambda model: partial(lambda gain, x: gain * model.first(x), gain)


def by_part(gain: float) -> Callable[[Calls], Any]:
    """Which of two layers is called."""
    return lambda model: [model.first, model.second][int(gain) - 1].forward


KINDS_OF_STATE = [
    by_default,
    by_keyword_default,
    by_closure,
    through_a_function,
    by_partial,
    by_part,
]


@pytest.mark.parametrize("keep", KINDS_OF_STATE)
def test_functions_that_differ_in_what_they_hold_differ(keep: Callable[..., Any]) -> None:
    model = Calls(keep(1.0))
    assert first_difference(model, own_copy(model, "model")) == ""
    assert first_difference(model, Calls(keep(1.0))) == ""
    assert first_difference(model, Calls(keep(2.0))) == "call"


def test_a_list_of_parts_in_another_order_differs() -> None:
    def order(*names: str) -> Callable[[Calls], Any]:
        return lambda model: [getattr(model, name) for name in names]

    model = Calls(order("first", "second"))
    assert first_difference(model, Calls(order("first", "second"))) == ""
    assert first_difference(model, Calls(order("second", "first"))) == "call"


def test_parts_that_are_not_registered_differ_by_their_values() -> None:
    def hidden(value: float) -> Callable[[Calls], Any]:
        layer = nn.Linear(2, 2)
        nn.init.constant_(layer.weight, value)
        nn.init.zeros_(layer.bias)
        return lambda _: [layer]

    model = Calls(hidden(1.0))
    assert first_difference(model, Calls(hidden(1.0))) == ""
    assert first_difference(model, Calls(hidden(2.0))) == "call"


def test_functions_that_hold_themselves_are_compared() -> None:
    def keep(_: Calls) -> Any:
        def call(n: int) -> int:
            return n and call(n - 1)

        return call

    assert first_difference(Calls(keep), Calls(keep)) == ""


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize("keep", [by_default, by_closure, by_part])
def test_a_newcomer_that_holds_other_values_trains_as_alone(
    keep: Callable[..., Any], kind: ExecutorKind
) -> None:
    models = [Calls(keep(1.0)).double() for _ in range(2)]
    bundle = bind(models, example=vectors(), executor=kind, choices=[])
    newcomer = Calls(keep(2.0)).double()
    bundle.replace(1, newcomer, seed=3)
    x = torch.stack([vectors(), vectors()])
    output = bundle(x)
    torch.testing.assert_close(output[0], models[0](x[0]))
    torch.testing.assert_close(output[1], newcomer(x[1]))
