"""What forward changes in objects of Python's is seen; what it only reads stays fused."""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import re
import types
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion import ExecutorKind, bind
from hydro_hpc.fusion.python_state import first_change, python_state
from hydro_hpc.nn import Refused
from tests.hydro_hpc.fusion.architectures import vectors


@dataclass
class Count:
    n: int = 0

    def up(self) -> int:
        self.n += 1
        return self.n


class Slotted:
    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0

    def up(self) -> None:
        self.n += 1


class Hides:
    """As a class from C that has a way of its own to be copied."""

    __slots__ = ()

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError

    def __deepcopy__(self, _memo: Any) -> Hides:
        return self


@dataclass
class Config:
    width: int = 6
    gains: list[float] = field(default_factory=lambda: [1.0, 2.0])
    table: Any = field(default_factory=lambda: np.arange(3.0))
    root: Path = Path("data")
    seen: Any = None


def closure() -> Callable[[], int]:
    n = 0

    def up() -> int:
        nonlocal n
        n += 1
        return n

    return up


def with_default(seen: list[int] | None = None) -> Callable[..., None]:
    return lambda seen=seen or []: seen.append(1)


def add_one(array: Any) -> None:
    array += 1


def cyclic() -> Config:
    config = Config()
    config.seen = [config, Count()]
    return config


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "object": (Count, Count.up),
    "slot": (Slotted, Slotted.up),
    "object in a list in a dict": (lambda: {"a": [Count()]}, lambda kept: kept["a"][0].up()),
    "object in a cycle": (cyclic, lambda config: config.seen[1].up()),
    "bound method": (lambda: Count().up, lambda up: up()),
    "array": (lambda: np.zeros(3), add_one),
    "array of objects": (lambda: np.array([Count()], dtype=object), lambda kept: kept[0].up()),
    "deque": (lambda: deque([1], maxlen=1), lambda kept: kept.append(2)),
    "default": (lambda: defaultdict(float), lambda kept: kept["a"]),
    "random": (lambda: random.Random(3), lambda kept: kept.random()),
    "generator": (lambda: np.random.default_rng(3), lambda kept: kept.random()),
    "old generator": (lambda: np.random.RandomState(3), lambda kept: kept.rand()),
    "torch generator": (torch.Generator, lambda kept: torch.rand(2, generator=kept)),
    "count": (itertools.count, next),
    "cycle": (lambda: itertools.cycle([1, 2, 3]), next),
    "iterator": (lambda: iter([1, 2, 3] * 50), next),
    "closure": (closure, lambda up: up()),
    "default argument": (with_default, lambda call: call()),
    "partial": (lambda: partial(Count.up, Count()), lambda up: up()),
    "data": (lambda: [torch.zeros(2)], lambda kept: kept[0].data.add_(1)),
}


class Keeps(nn.Module):
    def __init__(self, kept: Any, use: Callable[[Any], Any]) -> None:
        super().__init__()
        self.fc, self.kept, self.use = nn.Linear(6, 4), kept, use

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.use(self.kept)
        return self.fc(x)


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen(what: str) -> None:
    make, change = CHANGES[what]
    model = Keeps(make(), change)
    before = python_state(model)
    assert first_change(before, python_state(model)) == ""
    change(model.kept)
    assert first_change(before, python_state(model)) == "kept"


@pytest.mark.parametrize("kind", [ExecutorKind.GROUPED, ExecutorKind.VMAP])
@pytest.mark.parametrize("what", ["object", "array", "deque", "generator", "count", "closure"])
def test_a_forward_that_changes_what_it_keeps_is_not_fused(what: str, kind: ExecutorKind) -> None:
    make, change = CHANGES[what]
    models = [Keeps(make(), change).double() for _ in range(2)]
    report = bind(models, example=vectors(), executor=kind, choices=[]).report
    assert report.executor is ExecutorKind.LOOP
    assert "kept'" in report.reason


class Warmup:
    n = 0

    def __call__(self) -> float:
        self.n += 1
        return 1 / self.n


class WarmsUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(6, 4), Warmup()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale() if self.training else self.fc(x)


@pytest.mark.parametrize("kind", [*ExecutorKind, None])
def test_a_schedule_in_an_object_goes_on_as_alone(kind: ExecutorKind | None) -> None:
    models = [WarmsUp().double() for _ in range(2)]
    bundle = bind(models, example=vectors(), executor=kind, choices=[])
    for _ in range(3):
        x = torch.stack([vectors(), vectors()])
        expected = torch.stack([model(x[slot]) for slot, model in enumerate(models)])
        torch.testing.assert_close(bundle(x), expected)
    assert bundle.unbind(1).scale.n == 3


class Shares(nn.Module):
    """A part changes what the model reads."""

    def __init__(self) -> None:
        super().__init__()
        self.z_count = Count(1)
        self.a_part = Keeps(self.z_count, Count.up)

    def forward(self, x: Tensor) -> Tensor:
        return self.a_part(x) / self.z_count.n


def test_what_a_part_shares_with_the_model_is_the_models() -> None:
    models = [Shares().double() for _ in range(2)]
    report = bind(models, example=vectors(), executor=ExecutorKind.GROUPED, choices=[]).report
    assert report.executor is ExecutorKind.LOOP
    assert report.reason == "forward writes to the attribute 'z_count'"


READ: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "config": (Config, lambda config: config.gains[config.width - 5] * config.table[1]),
    "namespace": (lambda: argparse.Namespace(a=1, b=[2]), lambda kept: kept.b[0]),
    "simple namespace": (lambda: types.SimpleNamespace(a=Config()), lambda kept: kept.a.width),
    "logger": (lambda: logging.getLogger("hydro.test"), lambda logger: logger.debug("step")),
    "path": (lambda: Path("a/b"), lambda path: (str(path), path.parts, hash(path))),
    "pattern": (lambda: re.compile("a+"), lambda pattern: pattern.match("aa")),
    "generator that nobody uses": (lambda: np.random.default_rng(3), id),
    "iterator that nobody uses": (lambda: iter([1]), id),
    "array": (lambda: np.ones(4), lambda array: float(array.sum())),
    "dtype and device": (lambda: [torch.float32, torch.device("cpu"), torch.Size([2])], str),
    "class": (lambda: Config, lambda cls: cls.__name__),
    "function": (lambda: partial(torch.clamp, min=0), lambda call: call(torch.ones(1))),
    "sentinel": (object, id),
}


@pytest.mark.parametrize("what", READ)
def test_what_is_only_read_stays_fused(what: str) -> None:
    make, use = READ[what]
    models = [Keeps(make(), use).double() for _ in range(2)]
    report = bind(models, example=vectors(), executor=ExecutorKind.GROUPED, choices=[]).report
    assert report.executor is ExecutorKind.GROUPED, report


def test_an_object_that_hides_its_state_is_not_fused() -> None:
    with pytest.raises(Refused, match="the attribute 'kept' holds a Hides, which hides its state"):
        python_state(Keeps([Hides()], id))
    models = [Keeps(Hides(), id).double() for _ in range(2)]
    report = bind(models, example=vectors(), executor=ExecutorKind.GROUPED, choices=[]).report
    assert report.executor is ExecutorKind.LOOP


def test_what_a_function_can_reach_is_read_up_to_a_bound() -> None:
    chain: list[Any] = []
    for _ in range(100_000):
        chain = [chain]
    model = Keeps(lambda: chain, id)
    assert first_change(python_state(model), python_state(model)) == ""
