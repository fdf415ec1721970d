"""Parameters that plain numbers multiply, and calls that follow values, of functions of a width."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from tests.hydro_hpc.surrogate.against_target import HIDDEN, NARROW, TARGET, multipliers


class Equalized(nn.Module):
    """Weights of spread 1 at any width, whose scale is a factor in the call."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.into, self.out, self.scale = nn.Linear(8, width), nn.Linear(width, 3), scale
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(self.into(x), self.weight * self.scale))  # type: ignore[no-any-return]


def by_the_width(width: int = TARGET) -> nn.Module:
    return Equalized(width, 1 / math.sqrt(width))


def by_the_target(width: int = TARGET) -> nn.Module:
    return Equalized(width, 1 / math.sqrt(TARGET))


def test_a_factor_of_a_parameter_that_follows_the_width_is_refused() -> None:
    """Its spread and its rate would be scaled twice."""
    with pytest.raises(ShrinkError, match=r"multiplies 'weight' by 0\.125 .* by 0\.25 at the surr"):
        shrink(by_the_width, width=NARROW, example=torch.randn(4, 8))


def test_a_factor_of_the_targets_width_is_none_of_the_rules() -> None:
    example = torch.randn(4, 8)
    built = shrink(by_the_target, width=NARROW, example=example)
    followed = shrink(by_the_width(), by=TARGET / NARROW, example=example)
    assert built.rules["weight"] == followed.rules["weight"] == HIDDEN
    for surrogate in (built, followed):
        weight = surrogate.module.get_parameter("weight").detach()
        assert float(weight.std()) == pytest.approx(math.sqrt(TARGET / NARROW), rel=0.2)


class Routed(nn.Module):
    """Each expert gets the rows that are its own, as many as they are."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.router, self.out = (
            nn.Linear(8, width),
            nn.Linear(width, 3),
            nn.Linear(width, 2),
        )
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        weights, chosen = self.router(x).softmax(-1).topk(2)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == number)
            y[rows] += weights[rows, places, None] * expert(x[rows])
        return self.out(x + y)  # type: ignore[no-any-return]


def test_what_cannot_be_followed_is_no_hindrance_to_a_function_of_the_width() -> None:
    surrogate = shrink(Routed, width=NARROW, example=torch.randn(6, 8))
    assert surrogate.rules["experts.0.weight"] == HIDDEN
    assert multipliers(surrogate).keys() == {"router", "out"}
