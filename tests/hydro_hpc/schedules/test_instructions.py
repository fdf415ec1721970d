"""What DeepSpeed's own schedule objects say."""

from __future__ import annotations

from types import ModuleType

import pytest

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.generators import one_f_one_b
from hydro_hpc.schedules.instructions import of_all_stages, read_instructions
from hydro_hpc.schedules.schedule import TRANSFERS
from hydro_hpc.schedules.simulation import simulate
from hydro_hpc.schedules.timing import Durations
from tests.hydro_hpc.schedules.closed_form import SHAPES, UNIT_NS, windows_ns

pytestmark = pytest.mark.deepspeed
WORK_AFTER = {"RECV_F": "F", "RECV_B": "B", "STEP": "STEP"}


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("num_microbatches", [1, 2, 4, 8, 19])
def test_train_schedule_is_1f1b(engine: ModuleType, num_stages: int, num_microbatches: int) -> None:
    own = engine.TrainSchedule(num_microbatches, num_stages, 0)
    schedule = read_instructions(of_all_stages(own))
    assert schedule.without_transfers() == one_f_one_b(num_stages, num_microbatches)


def test_train_schedule_waits_as_the_closed_form_says(engine: ModuleType) -> None:
    """Its transfers block; between stages that are alike no sender waits all the same."""
    forward_ns, backward_ns = UNIT_NS, 2 * UNIT_NS
    for num_stages, num_microbatches in SHAPES:
        own = engine.TrainSchedule(num_microbatches, num_stages, 0)
        durations = Durations.even(num_stages, forward_ns=forward_ns, input_grad_ns=backward_ns)
        timing = simulate(read_instructions(of_all_stages(own)), durations)
        for stage in range(num_stages):
            waits = {}
            for span in timing.waits(stage):
                action = span.action
                number = "" if action.microbatch is None else action.microbatch
                waits[f"{stage}{WORK_AFTER[action.kind]}{number}"] = span.wait_ns
            assert waits == windows_ns(
                num_stages,
                num_microbatches,
                stage,
                forward_ns=forward_ns,
                backward_ns=backward_ns,
            )


def test_inference_schedule_is_forwards_alone(engine: ModuleType) -> None:
    schedule = read_instructions(of_all_stages(engine.InferenceSchedule(3, 2, 1)))
    assert str(schedule.without_transfers()) == "0F0 0F1 0F2\n1F0 1F1 1F2"
    timing = simulate(schedule, Durations.even(2, forward_ns=10, input_grad_ns=0))
    assert [span.wait_ns for span in timing.waits(1)] == [10]
    assert timing.step_ns == 40


def test_tied_stages_alone_reduce_their_tied_gradients(engine: ModuleType) -> None:
    stages = of_all_stages(engine.TrainSchedule(4, 3, 1))
    ends = [str(actions[-2]) for actions in read_instructions(stages, tied_stages={0, 2}).ranks]
    assert ends == ["0TIED", "1SEND_B3", "2TIED"]
    assert not {a for own in read_instructions(stages).ranks for a in own if a.kind == "TIED"}


def test_every_transfer_has_two_ends(engine: ModuleType) -> None:
    schedule = read_instructions(of_all_stages(engine.TrainSchedule(5, 4, 0)))
    texts = {str(action) for actions in schedule.ranks for action in actions}
    sent = {action for own in schedule.ranks for action in own if action.kind in TRANSFERS}
    assert len(sent) == 2 * 2 * 3 * 5
    assert {"0SEND_F4", "1RECV_F4", "3SEND_B0", "2RECV_B0"} <= texts


def test_an_unknown_instruction_is_said(engine: ModuleType) -> None:
    """DualPipeV's own, say."""
    own = engine.TrainSchedule(2, 1, 0)
    stranger = type("CommitP2P", (), {})()
    own.steps = lambda: [[stranger]]
    with pytest.raises(ScheduleError, match="stage 0: the instruction CommitP2P is not known"):
        read_instructions([own])


def test_a_schedule_that_others_cannot_have_is_said(engine: ModuleType) -> None:
    class Own(engine.TrainSchedule):
        def __init__(self) -> None:
            super().__init__(4, 2, 0)

    with pytest.raises(ScheduleError, match="Own cannot be made for the other stages"):
        of_all_stages(Own())
