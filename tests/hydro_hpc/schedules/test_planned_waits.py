"""Waits of a stage's communication instructions, known before the first step has run."""

from __future__ import annotations

from types import ModuleType

import pytest

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.planned_waits import PlannedWait, plan_waits

pytestmark = pytest.mark.deepspeed
MS = 1_000_000


def long_waits(waits: tuple[PlannedWait, ...]) -> list[tuple[str, int, float]]:
    """Returns those that are no transfer, in ms."""
    return [(w.instruction, w.number, w.wait_ns / MS) for w in waits if w.wait_ns >= 2 * MS]


def test_the_waits_of_1f1b_are_fill_turn_cool_down_and_drain(engine: ModuleType) -> None:
    waits = plan_waits(engine.TrainSchedule(8, 4, 1), forward_ns=10 * MS, backward_ns=20 * MS)
    assert long_waits(waits) == [
        ("RecvActivation", 0, 10),
        ("RecvGrad", 0, 40),
        ("RecvGrad", 6, 10),
        ("RecvGrad", 7, 10),
        ("OptimizerStep", 0, 20),
    ]


def test_waits_come_in_the_order_in_which_the_engine_communicates(engine: ModuleType) -> None:
    own = engine.TrainSchedule(5, 3, 1)
    waits = plan_waits(own, forward_ns=1, backward_ns=2)
    names = [type(command).__name__ for commands in own.steps() for command in commands]
    communicating = [name for name in names if name.startswith(("Send", "Recv", "Optimizer"))]
    assert [wait.instruction for wait in waits] == communicating
    for name in set(communicating):
        numbers = [wait.number for wait in waits if wait.instruction == name]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("stage", range(4))
def test_the_waits_of_a_step_are_all_of_its_bubble(engine: ModuleType, stage: int) -> None:
    for num_microbatches in (4, 5, 16):
        own = engine.TrainSchedule(num_microbatches, 4, stage)
        waits = plan_waits(own, forward_ns=10, backward_ns=25)
        assert sum(wait.wait_ns for wait in waits) == 3 * (10 + 25)


def test_a_last_stage_with_tied_weights_waits_where_it_reduces_them(engine: ModuleType) -> None:
    own = engine.TrainSchedule(4, 2, 1)
    waits = plan_waits(own, forward_ns=10 * MS, backward_ns=20 * MS, tied_stages={0, 1})
    assert long_waits(waits)[-1] == ("ReduceTiedGrads", 0, 20)
    assert waits[-1] == PlannedWait(instruction="OptimizerStep", number=0, wait_ns=0)


def test_transfers_make_waits_longer(engine: ModuleType) -> None:
    own = engine.TrainSchedule(4, 4, 3)
    waits = plan_waits(own, forward_ns=10 * MS, backward_ns=20 * MS, transfer_ns=MS)
    assert waits[0] == PlannedWait(instruction="RecvActivation", number=0, wait_ns=33 * MS)


def test_evaluation_is_planned_by_its_own_schedule(engine: ModuleType) -> None:
    waits = plan_waits(engine.InferenceSchedule(4, 3, 2), forward_ns=10 * MS, backward_ns=20 * MS)
    assert long_waits(waits) == [("RecvActivation", 0, 20)]


def test_a_schedule_of_another_engine_is_refused(engine: ModuleType) -> None:
    if not hasattr(engine, "DualPipeVSchedule"):
        pytest.skip("this DeepSpeed has no DualPipeV")
    own = engine.DualPipeVSchedule(micro_batches=8, stages=4, stage_id=0)
    with pytest.raises(ScheduleError, match="is not known"):
        plan_waits(own, forward_ns=1, backward_ns=2)
