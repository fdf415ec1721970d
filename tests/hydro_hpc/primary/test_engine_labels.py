"""What is taken from engines, on stand-ins for their modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hydro_hpc.primary.engine_labels import DEEPSPEED, TORCH_PIPELINING, EngineLabels


class Told:
    """Remembers what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def engine_step(self) -> None:
        self.events.append("step")

    def stage(self, stage: int, num_stages: int) -> None:
        self.events.append(("stage", stage, num_stages))

    def microbatch(self, buffer: int) -> None:
        self.events.append(("microbatch", buffer))

    def fails(self, error: Exception) -> None:
        self.events.append(("fails", str(error)))


class Receive: ...


class Commit: ...


class PipelineEngine:
    stage_id, num_stages = 1, 2

    def receive(self, buffer_id: int) -> str:
        return f"received {buffer_id}"

    def commit(self) -> str:
        return "committed"

    _INSTRUCTION_MAP = {Receive: receive}  # noqa: RUF012

    def train_batch(self) -> list[str]:
        looked_up: dict[type, Any] = self._INSTRUCTION_MAP
        did = [looked_up[Receive](self, buffer_id=3)]
        return did + [looked_up[Commit](self) for _ in looked_up.keys() & {Commit}]


class DualEngine(PipelineEngine):
    _INSTRUCTION_MAP = {**PipelineEngine._INSTRUCTION_MAP, Commit: PipelineEngine.commit}  # type: ignore[dict-item] # noqa: RUF012


class PipelineScheduleSingle:
    def __init__(self) -> None:
        self._stage = SimpleNamespace(group_rank=1, group_size=2)

    def step(self, x: int) -> int:
        return x + 1


class PipelineScheduleMulti:
    def __init__(self) -> None:
        self._stages = [SimpleNamespace(group_rank=0, group_size=2)] * 2

    def step(self, x: int) -> int:
        return x + 2


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """The stand-ins, hooked."""
    deepspeed, schedules = ModuleType(DEEPSPEED), ModuleType(TORCH_PIPELINING)
    vars(deepspeed)["PipelineEngine"] = PipelineEngine
    for schedule in (PipelineScheduleSingle, PipelineScheduleMulti):
        vars(schedules)[schedule.__name__] = schedule
    monkeypatch.setitem(sys.modules, DEEPSPEED, deepspeed)
    monkeypatch.setitem(sys.modules, TORCH_PIPELINING, schedules)
    before = [PipelineEngine.train_batch, PipelineEngine._INSTRUCTION_MAP]
    told = Told()
    labels = EngineLabels(lambda: told)
    yield told
    labels.remove()
    assert [PipelineEngine.train_batch, PipelineEngine._INSTRUCTION_MAP] == before
    assert list(DualEngine._INSTRUCTION_MAP.values()) == [
        PipelineEngine.receive,
        PipelineEngine.commit,
    ]


def test_deepspeed_tells_stage_step_and_microbatch(told: Told) -> None:
    assert PipelineEngine().train_batch() == ["received 3"]
    assert told.events == [("stage", 1, 2), "step", ("microbatch", 3)]


def test_engine_with_a_map_of_its_own_is_labelled_too(told: Told) -> None:
    """Whichever of the two runs first."""
    PipelineEngine().train_batch()
    told.events.clear()
    assert DualEngine().train_batch() == ["received 3", "committed"]
    assert told.events == [("stage", 1, 2), "step", ("microbatch", 3), ("microbatch", -1)]


def test_schedules_tell_the_stage_and_no_step(told: Told) -> None:
    assert PipelineScheduleSingle().step(1) == 2
    assert PipelineScheduleMulti().step(1) == 3
    assert told.events == [("stage", 1, 2), ("stage", 0, 2)]


def test_engine_that_is_strange_trains_on(told: Told) -> None:
    engine = PipelineEngine()
    engine.train_batch()
    told.events.clear()
    schedule = PipelineScheduleSingle()
    del schedule._stage
    assert schedule.step(1) == 2
    [(what, _)] = told.events
    assert what == "fails"
