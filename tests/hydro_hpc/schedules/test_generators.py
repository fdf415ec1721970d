"""The orders of the schedules, and the bubbles they are known for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.generators import gpipe, interleaved_1f1b, one_f_one_b, zb_h1
from hydro_hpc.schedules.schedule import Kind, Schedule
from hydro_hpc.schedules.simulation import simulate
from hydro_hpc.schedules.timing import Durations

UNIT_NS = 1000


def timing(schedule: Schedule, *, stages_per_rank: int = 1) -> tuple[float, list[list[float]]]:
    """Returns the idle share in percent, and each rank's windows, in units of F = I = W = 1."""
    part_ns = UNIT_NS // stages_per_rank
    durations = Durations.even(
        schedule.num_stages, forward_ns=part_ns, input_grad_ns=part_ns, weight_grad_ns=part_ns
    )
    found = simulate(schedule, durations)
    windows = [
        [span.wait_ns / UNIT_NS for span in found.waits(rank)]
        for rank in range(len(schedule.ranks))
    ]
    return round(100 * found.bubble_frac, 1), windows


def test_orders_are_the_published_ones() -> None:
    assert str(gpipe(2, 2)) == "0F0 0F1 0B0 0B1 0STEP\n1F0 1F1 1B0 1B1 1STEP"
    assert str(one_f_one_b(2, 3)) == (
        "0F0 0F1 0B0 0F2 0B1 0B2 0STEP\n1F0 1B0 1F1 1B1 1F2 1B2 1STEP"
    )
    assert str(zb_h1(2, 3)) == (
        "0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2 0STEP\n1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2 1STEP"
    )
    assert str(interleaved_1f1b(2, 2, stages_per_rank=2)) == (
        "0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1 0STEP\n1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1 1STEP"
    )


def test_gpipe_waits_once_for_all_backwards() -> None:
    windows = [[9], [1, 6, 2], [2, 3, 4], [3, 6]]
    assert timing(gpipe(4, 8)) == (27.3, windows)


def test_1f1b_waits_as_long_as_gpipe_in_more_pieces() -> None:
    windows = [[6, 1, 1, 1], [1, 4, 1, 1, 2], [2, 2, 1, 4], [3, 6]]
    assert timing(one_f_one_b(4, 8)) == (27.3, windows)


def test_interleaving_halves_the_bubble() -> None:
    idle, windows = timing(interleaved_1f1b(4, 8, stages_per_rank=2), stages_per_rank=2)
    assert idle == 15.8
    assert windows[0] == [1.5, *[0.5] * 6]
    assert windows[3] == [1.5, 3]
    assert {sum(own) for own in windows} == {4.5}


def test_zb_h1_leaves_a_third_of_the_bubble() -> None:
    assert timing(zb_h1(4, 8)) == (11.1, [[3], [1, 2], [2, 1], [3]])


def test_zb_h1_holds_no_more_activations_than_the_first_rank_of_1f1b() -> None:
    for actions in zb_h1(4, 8).ranks:
        held, most = 0, 0
        for action in actions:
            held += {Kind.FORWARD: 1, Kind.WEIGHT_GRAD: -1}.get(action.kind, 0)
            most = max(most, held)
        assert most == 4


@given(st.integers(1, 8), st.integers(1, 20))
def test_every_shape_runs_to_its_end(num_ranks: int, num_microbatches: int) -> None:
    """With fewer microbatches than ranks, too."""
    for schedule in (
        gpipe(num_ranks, num_microbatches),
        one_f_one_b(num_ranks, num_microbatches),
        zb_h1(num_ranks, num_microbatches),
    ):
        durations = Durations.even(num_ranks, forward_ns=1, input_grad_ns=1, weight_grad_ns=1)
        spans = simulate(schedule, durations).ranks
        work_ns = [sum(span.end_ns - span.start_ns for span in own) for own in spans]
        assert work_ns == [3 * num_microbatches] * num_ranks


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 9, 2), "9 microbatches do not divide into 2 rounds; give a multiple of the 4 ranks"),
        ((4, 8, 1), "1 stages per rank; give 2 or more, or use 1F1B"),
        ((0, 8, 2), "0 ranks and 8 microbatches make none"),
    ],
)
def test_what_cannot_be_generated_is_said(shape: tuple[int, int, int], message: str) -> None:
    num_ranks, num_microbatches, stages_per_rank = shape
    with pytest.raises(ScheduleError, match=message):
        interleaved_1f1b(num_ranks, num_microbatches, stages_per_rank=stages_per_rank)
