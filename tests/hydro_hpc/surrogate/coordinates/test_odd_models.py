"""The check on models that use their parameters in other ways than torch's layers do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import CheckReport, check
from hydro_hpc.surrogate.coordinates.records import Role
from hydro_hpc.surrogate.coordinates.verdict import Evidence

ROWS = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))


def checked(model: Any, optimizer: str = "adam", **more: Any) -> CheckReport:
    return check(model, example=ROWS, optimizer=optimizer, lr=0.01, seeds=1, steps=2, **more)


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Raw(nn.Module):
    """Weights in products, a gain, a factor for all, and a vector that is summed over."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(20, width) / math.sqrt(20))
        self.between = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.norm, self.factor = Norm(width), nn.Parameter(torch.ones(()))
        self.query = nn.Parameter(torch.randn(width) / width)
        self.act, self.head = nn.PReLU(), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x @ self.into)
        x = self.norm(x + self.factor * torch.einsum("bi,oi->bo", x, self.between))
        found: Tensor = self.head(x) + (x * self.query).sum(-1, keepdim=True)
        return found


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_raw_parameters_are_judged_where_they_meet_the_inputs(optimizer: str) -> None:
    report = checked(Raw, optimizer)
    roles = {verdict.layer: verdict.role for verdict in report.layers}
    expected = {"into": Role.INPUT, "between": Role.HIDDEN, "norm.gain": Role.VECTOR}
    assert roles | expected | {"query": Role.OUTPUT, "factor": Role.PLAIN} == roles
    assert report.passed, str(report)


class Masked(nn.Module):
    """Whose weight is cast and masked before it acts."""

    mask: Tensor

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(20, width), nn.Linear(width, 10)
        self.weight = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.register_buffer("mask", (torch.arange(width) % 2 == 0).expand(width, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.mask).t().contiguous()
        found: Tensor = self.head(self.first(x).relu() @ weight)
        return found


def test_what_is_computed_from_a_parameter_alone_is_followed_to_where_it_acts() -> None:
    report = checked(Masked, "sgd", uses={"weight": (0, 1)})
    [found] = [verdict for verdict in report.layers if verdict.layer == "weight"]
    assert found.role is Role.HIDDEN
    assert found.slopes.step == pytest.approx(0.0, abs=0.2)
    assert report.passed, str(report)


def test_weight_norm_passes() -> None:
    def model(width: int = 64) -> nn.Module:
        layers = (nn.Linear(20, width), nn.Linear(width, width, bias=False))
        first, second = map(nn.utils.parametrizations.weight_norm, layers)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, 10))

    report = checked(model, "sgd")
    assert report.passed, str(report)
    assert any("original1" in verdict.layer for verdict in report.layers)


class Factor(nn.Module):
    """With a factor between layers, or behind the last."""

    def __init__(self, width: int = 64, *, is_last: bool) -> None:
        super().__init__()
        self.factor, self.is_last = width / 16, is_last
        self.a, self.b = nn.Linear(20, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if self.is_last:
            found: Tensor = self.head(self.b(x).relu()) * self.factor
            return found
        inside: Tensor = self.head(self.b(x * self.factor).relu())
        return inside


@pytest.mark.parametrize(("is_last", "named"), [(False, "b"), (True, "(model)")])
def test_a_factor_between_layers_is_found_where_it_shows_first(is_last: bool, named: str) -> None:
    def model(width: int = 64) -> nn.Module:
        return Factor(width, is_last=is_last)

    report = check(model, example=ROWS, lr=0.01, steps=1)
    assert [verdict.layer for verdict in report.culprits] == [named]
    assert report.culprits[0].evidence is Evidence.BETWEEN


class Hidden(nn.Module):
    """Uses a parameter through numpy-like code that torch's functions do not show."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))
        self.first, self.head = nn.Linear(20, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            x = self.first(x) + self.shift
        found: Tensor = self.head(x.relu())
        return found


def test_a_parameter_that_could_not_be_followed_is_said_to_be_unclear() -> None:
    report = checked(Hidden)
    [unclear] = [verdict for verdict in report.layers if verdict.layer == "shift"]
    assert unclear.evidence is Evidence.UNCLEAR
    assert "note: 'shift': no step was seen" in str(report)


class Unused(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(3, width))
        self.first, self.head = nn.Linear(20, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.first(x).relu())
        return found


def test_an_unused_parameter_is_asked_about_and_uses_answers() -> None:
    with pytest.raises(ShrinkError, match=r"'spare' of Unused.*uses=\{'spare': None\}") as refused:
        checked(Unused)
    assert "widths=" not in str(refused.value)
    assert checked(Unused, uses={"spare": None}).passed
