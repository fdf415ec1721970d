"""When actions happen, given what they need; and schedules that cannot run."""

from __future__ import annotations

import pytest

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.generators import gpipe, one_f_one_b
from hydro_hpc.schedules.schedule import Schedule
from hydro_hpc.schedules.simulation import simulate
from hydro_hpc.schedules.timing import Durations, Timing
from tests.hydro_hpc.schedules.closed_form import SHAPES, UNIT_NS, windows_ns


def run(text: str, *, forward: int = 1, backward: int = 2, transfer: int = 0) -> Timing:
    schedule = Schedule.parse(text)
    durations = Durations.even(
        schedule.num_stages, forward_ns=forward, input_grad_ns=backward, transfer_ns=transfer
    )
    return simulate(schedule, durations)


def waits(timing: Timing, rank: int) -> dict[str, int]:
    return {str(span.action): span.wait_ns for span in timing.waits(rank)}


@pytest.mark.parametrize("ratio", [1.5, 2, 3])
def test_1f1b_waits_as_the_closed_form_says(ratio: float) -> None:
    backward_ns = int(ratio * UNIT_NS)
    for num_stages, num_microbatches in SHAPES:
        durations = Durations.even(num_stages, forward_ns=UNIT_NS, input_grad_ns=backward_ns)
        timing = simulate(one_f_one_b(num_stages, num_microbatches), durations)
        for stage in range(num_stages):
            assert waits(timing, stage) == windows_ns(
                num_stages, num_microbatches, stage, forward_ns=UNIT_NS, backward_ns=backward_ns
            )
            assert timing.idle_ns(stage) == (num_stages - 1) * (UNIT_NS + backward_ns)


def test_a_microbatch_waits_for_the_stage_before_and_its_transfer() -> None:
    timing = run("0F0\n1F0", forward=10, transfer=3)
    assert waits(timing, 1) == {"1F0": 13}
    assert timing.step_ns == 23


def test_stages_of_one_rank_pass_without_a_transfer() -> None:
    timing = run("0F0 3F0\n1F0 2F0", forward=10, transfer=3)
    assert waits(timing, 1) == {"1F0": 13}
    assert waits(timing, 0) == {"3F0": 10 + 2 * 3 + 10}


def test_a_weight_gradient_waits_for_nobody_else() -> None:
    timing = run("0F0 0I0 0W0 0STEP\n1F0 1I0 1W0 1STEP")
    assert waits(timing, 0) == {"0I0": 1 + 2}
    assert waits(timing, 1) == {"1F0": 1, "1STEP": 2}


def test_a_sender_waits_for_its_receiver() -> None:
    text = "0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1F0 1B0 1RECV_F1 1F1 1B1"
    timing = run(text, forward=10, backward=25, transfer=4)
    assert waits(timing, 1) == {"1RECV_F0": 14, "1RECV_F1": 4}
    assert waits(timing, 0) == {"0SEND_F0": 4, "0SEND_F1": 29}


def test_an_implied_transfer_does_not_hold_its_sender() -> None:
    timing = run("0F0 0F1\n1F0 1B0 1F1 1B1", forward=10, backward=25, transfer=4)
    assert waits(timing, 0) == {}
    assert waits(timing, 1) == {"1F0": 14}


def test_tied_weights_are_waited_for_before_the_border() -> None:
    text = "0F0 0B0 0TIED 0STEP\n1F0 1B0 1STEP\n2F0 2B0 2TIED 2STEP"
    timing = run(text)
    assert waits(timing, 2) == {"2F0": 2, "2TIED": 4}
    assert waits(timing, 1) == {"1F0": 1, "1B0": 3, "1STEP": 2}


def test_one_slow_stage_makes_the_others_wait() -> None:
    durations = Durations(
        forward_ns=(1000, 1200, 1000, 1000),
        input_grad_ns=(2000, 2400, 2000, 2000),
        weight_grad_ns=(0, 0, 0, 0),
    )
    even = Durations.even(4, forward_ns=1000, input_grad_ns=2000)
    schedule = one_f_one_b(4, 8)
    assert simulate(schedule, even).step_ns == 33_000
    slowed = simulate(schedule, durations)
    assert slowed.step_ns == 36_600
    assert [waits(slowed, rank) for rank in (0, 2, 3)].count({}) == 0
    assert sum(wait == 600 for wait in waits(slowed, 3).values()) == 5


def test_without_a_border_the_time_to_the_last_rank_is_idle_too() -> None:
    timing = run("0F0 0F1\n1F0 1F1")
    assert timing.waits(0) == ()
    assert [timing.idle_ns(0), timing.idle_ns(1)] == [1, 1]
    assert timing.bubble_frac == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0F0 0B0\n1B0 1F0",
            "rank 0 waits at 0B0 for 1B0; rank 1 waits at 1B0 for 1F0; change their order",
        ),
        ("0F0\n1F1", "rank 1 waits at 1F1 for 0F1, which no rank does"),
        ("0F0 0W0", "rank 0 waits at 0W0 for 0I0, which no rank does"),
        ("0F0\n1RECV_F0 1F0", "rank 1 waits at 1RECV_F0 for 0SEND_F0, which no rank does"),
        (
            "0F0 0SEND_F0 0RECV_B0 0B0\n1SEND_B0 1RECV_F0 1F0 1B0",
            "rank 0 waits at 0SEND_F0 for 1RECV_F0; rank 1 waits at 1SEND_B0 for 1B0",
        ),
        ("0F0 0SEND_F0\n1F0 1RECV_F0", "rank 1 waits at 1F0 for 1RECV_F0"),
        (
            "0F0 0SEND_F0 0B0 0RECV_B0\n1RECV_F0 1F0 1B0 1SEND_B0",
            "rank 0 waits at 0B0 for 0RECV_B0",
        ),
        ("0SEND_F0 0F0\n1RECV_F0 1F0", "rank 0 waits at 0SEND_F0 for 0F0"),
        ("0SEND_B0 0F0", "0SEND_B0 has no stage at its other end"),
        ("0F0 0STEP\n1F1 1STEP", "rank 1 waits at 1F1 for 0F1, which no rank does; rank 0 waits"),
    ],
)
def test_a_schedule_that_cannot_run_is_said_with_its_actions(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        run(text)


def test_durations_must_fit_the_schedule() -> None:
    with pytest.raises(ScheduleError, match="they are for 3 stages, but the schedule has 4"):
        simulate(gpipe(4, 2), Durations.even(3, forward_ns=1, input_grad_ns=1))
    with pytest.raises(ScheduleError, match="different numbers of stages"):
        Durations(forward_ns=(1, 1), input_grad_ns=(1,), weight_grad_ns=(1, 1))
    with pytest.raises(ScheduleError, match="-1 ns is negative"):
        Durations.even(2, forward_ns=1, input_grad_ns=-1)
