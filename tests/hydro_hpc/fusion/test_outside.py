"""Values that a forward reads from outside of its model are found, and seen to change."""

from __future__ import annotations

import itertools
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion.outside import OutsideValues
from hydro_hpc.nn.members import Refused

NUMBER = 1.0
TABLE: dict[str, Any] = {"rate": 1.0, "deep": {"er": [1, 2]}}
SCALE = torch.ones(3)
SETTINGS = types.SimpleNamespace(rate=1.0)
CONFIG = types.ModuleType("users_config")
CONFIG.rate = 1.0  # type: ignore[attr-defined]
UNREAD = 1.0
ARRAY = np.ones(1)
FUNCTIONS: dict[str, Callable[[], float]] = {"rate": lambda: NUMBER}
VOCABULARY = {str(number): number for number in range(100_000)}


@dataclass(slots=True)
class Slotted:
    rate: float = 1.0


class Nested:
    """Settings as YAML files give them, four deep, of which each level has many."""

    def __init__(self, depth: int) -> None:
        vars(self).update({f"option_{number}": number for number in range(40)}, rate=1.0)
        if depth:
            self.inner = Nested(depth - 1)


SLOTTED = Slotted()
NESTED: Any = Nested(4)
CONFIG_LIKE_TORCH = types.ModuleType("torchnets_config")


def rate_in_config_like_torch(x: Tensor) -> Tensor:
    return x * RATE  # type: ignore[name-defined]  # noqa: F821 - of that module


CONFIG_LIKE_TORCH.RATE = 1.0  # type: ignore[attr-defined]
FROM_LIKE_TORCH: Callable[[Tensor], Tensor] = types.FunctionType(
    rate_in_config_like_torch.__code__, vars(CONFIG_LIKE_TORCH), "from_like_torch"
)


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


class ReadsAnArray(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(ARRAY[0])


class ReadsTheEnvironment(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(os.environ.get("USERS_RATE", "1"))


class AsksTheEnvironment(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(os.getenv("USERS_RATE", "1"))


class ReadsSlots(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * SLOTTED.rate


class ReadsDeepIn(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * NESTED.inner.inner.inner.inner.rate


class ReadsDeepInByAnotherName(Base):
    def forward(self, x: Tensor) -> Tensor:
        settings = NESTED
        return x * settings.inner.inner.inner.inner.rate


class ReadsThroughAContainer(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * FUNCTIONS["rate"]()


class ReadsATableOfItsClass(Base):
    table: ClassVar[dict[str, float]] = {"rate": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table["rate"]


class ReadsATableOfAClass(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * ReadsATableOfItsClass.table["rate"]


class ReadsThroughAModuleNamedLikeTorch(Base):
    def forward(self, x: Tensor) -> Tensor:
        return FROM_LIKE_TORCH(x)


class Settings:
    """Reads a global where an attribute is asked for, and has a rate of the class."""

    rate = 1.0

    @property
    def number(self) -> float:
        return NUMBER


OF_A_CLASS = Settings()


class ReadsAProperty(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * OF_A_CLASS.number


class ReadsADefaultOfAClass(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * OF_A_CLASS.rate


class KeepsAnObjectThatReads(Base):
    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.settings.number


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
    (ReadsAnArray, lambda _: ARRAY.fill(2.0)),
    (ReadsTheEnvironment, lambda m: m.setenv("USERS_RATE", "2")),
    (AsksTheEnvironment, lambda m: m.setenv("USERS_RATE", "2")),
    (ReadsSlots, lambda m: m.setattr(SLOTTED, "rate", 2.0)),
    (ReadsDeepIn, lambda m: m.setattr(NESTED.inner.inner.inner.inner, "rate", 2.0)),
    (ReadsDeepInByAnotherName, lambda m: m.setattr(NESTED.inner.inner.inner.inner, "rate", 2.0)),
    (ReadsThroughAContainer, change_number),
    (ReadsThroughAContainer, lambda m: m.setitem(FUNCTIONS, "rate", lambda: 2.0)),
    (ReadsATableOfItsClass, lambda m: m.setitem(ReadsATableOfItsClass.table, "rate", 2.0)),
    (ReadsATableOfAClass, lambda m: m.setitem(ReadsATableOfItsClass.table, "rate", 2.0)),
    (ReadsThroughAModuleNamedLikeTorch, lambda m: m.setattr(CONFIG_LIKE_TORCH, "RATE", 2.0)),
    (ReadsAProperty, change_number),
    (ReadsADefaultOfAClass, lambda m: m.setattr(OF_A_CLASS, "rate", 2.0)),
    (KeepsAnObjectThatReads, change_number),
    (ReadsThroughAFunction, lambda m: m.setitem(globals(), "helper", lambda x: x)),
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


def test_a_value_that_is_set_anew_to_the_same_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = OutsideValues(ReadsSlots())
    before = values.state()
    monkeypatch.setattr(SLOTTED, "rate", float("1.0"))
    assert values.state() == before


class ReadsALargeTable(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.number("1")

    def number(self, word: str) -> int:
        return VOCABULARY[word]


class FitsWithALargeTable(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * NUMBER

    def fit(self) -> int:
        return VOCABULARY["1"]


class ReadsAnIterator(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * next(COUNT)


COUNT = itertools.count()


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (ReadsALargeTable, "'VOCABULARY' .* holds more than can be compared in each call"),
        (ReadsAnIterator, "'COUNT' .* is a count, which gives another value each time"),
    ],
)
def test_what_cannot_be_watched_is_refused(model: type[nn.Module], why: str) -> None:
    with pytest.raises(Refused, match=why):
        OutsideValues(model())


def test_what_forward_cannot_reach_may_be_as_large_as_it_is() -> None:
    assert OutsideValues(FitsWithALargeTable()).state()


def test_models_of_torchs_own_modules_read_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.TransformerEncoderLayer(4, 2), nn.LSTM(2, 2))
    assert OutsideValues(model).state() == ()
