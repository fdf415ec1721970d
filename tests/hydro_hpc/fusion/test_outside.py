"""Values that a forward reads from outside of its model are found, and seen to change."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion.outside import OutsideValues

NUMBER = 1.0
TABLE: dict[str, Any] = {"rate": 1.0, "deep": {"er": [1, 2]}}
SCALE = torch.ones(3)
SETTINGS = types.SimpleNamespace(rate=1.0)
CONFIG = types.ModuleType("users_config")
CONFIG.rate = 1.0  # type: ignore[attr-defined]
UNREAD = 1.0


def helper(x: Tensor) -> Tensor:
    return x * TABLE["deep"]["er"][0]


class Base(nn.Module):
    factor: ClassVar[float] = 1.0


class ReadsANumber(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * NUMBER


class ReadsATable(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * TABLE["rate"]


class ReadsThroughAFunction(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def inner(self, x: Tensor) -> Tensor:
        return torch.stack([helper(row) for row in x])


class ReadsATensor(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * SCALE


class ReadsSettings(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * SETTINGS.rate


class ReadsAModuleOfPython(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * CONFIG.rate


class ReadsItsClass(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class ReadsInALambda(Base):
    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: x * NUMBER

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def change_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NUMBER", 2.0)


CHANGES: list[tuple[type[nn.Module], Callable[[pytest.MonkeyPatch], Any]]] = [
    (ReadsANumber, change_number),
    (ReadsATable, lambda m: m.setitem(TABLE, "rate", 2.0)),
    (ReadsThroughAFunction, lambda m: m.setitem(TABLE["deep"], "er", [2, 2])),
    (ReadsATensor, lambda _: SCALE.add_(1)),
    (ReadsSettings, lambda m: m.setattr(SETTINGS, "rate", 2.0)),
    (ReadsAModuleOfPython, lambda m: m.setattr(CONFIG, "rate", 2.0)),
    (ReadsItsClass, lambda m: m.setattr(Base, "factor", 2.0)),
    (ReadsInALambda, change_number),
]


@pytest.mark.parametrize(("model", "change"), CHANGES, ids=lambda value: value.__name__)
def test_a_change_of_what_is_read_is_seen(
    model: type[nn.Module],
    change: Callable[[pytest.MonkeyPatch], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = OutsideValues(model())
    before = values.state()
    assert values.state() == before
    change(monkeypatch)
    assert values.state() != before


def test_closures_are_seen() -> None:
    rate = 1.0

    class Closed(Base):
        def forward(self, x: Tensor) -> Tensor:
            return x * rate

    values = OutsideValues(Closed())
    before = values.state()
    rate = 2.0
    assert values.state() != before


def test_what_is_not_read_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    values = OutsideValues(ReadsATable())
    before = values.state()
    monkeypatch.setitem(globals(), "UNREAD", 2.0)
    monkeypatch.setitem(globals(), "NUMBER", 2.0)
    assert values.state() == before


def test_models_of_torchs_own_modules_read_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.TransformerEncoderLayer(4, 2), nn.LSTM(2, 2))
    assert OutsideValues(model).state() == ()
