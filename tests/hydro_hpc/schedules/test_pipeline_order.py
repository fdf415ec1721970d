"""What torch's own pipeline schedules say. Made without processes: a plan needs none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.pipelining import schedules as torch_schedules

from hydro_hpc.schedules.generators import gpipe, interleaved_1f1b, one_f_one_b, zb_h1
from hydro_hpc.schedules.pipeline_order import read_pipeline_order
from hydro_hpc.schedules.schedule import Schedule
from hydro_hpc.schedules.simulation import simulate
from hydro_hpc.schedules.timing import Durations

NUM_RANKS = 4


def stages(stages_per_rank: int, num_ranks: int = NUM_RANKS) -> list[Any]:
    """Returns what a schedule asks of rank 0's stages before it runs."""
    return [
        SimpleNamespace(
            stage_index=index * num_ranks,
            num_stages=stages_per_rank * num_ranks,
            group_size=num_ranks,
            group_rank=0,
            submod=torch.nn.Identity(),
        )
        for index in range(stages_per_rank)
    ]


def plan(name: str, stages_per_rank: int, num_microbatches: int) -> Schedule:
    schedule = getattr(torch_schedules, name)(
        stages(stages_per_rank), num_microbatches, loss_fn=lambda *_: None
    )
    return read_pipeline_order(schedule.pipeline_order)


def bubble_percent(schedule: Schedule) -> float:
    """With F = I = W, and a rank's work independent of how many stages it is cut into."""
    durations = Durations.even(
        schedule.num_stages, forward_ns=1000, input_grad_ns=1000, weight_grad_ns=1000
    )
    return round(100 * simulate(schedule, durations).bubble_frac, 1)


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("ScheduleInterleaved1F1B", 15.8),
        ("ScheduleInterleavedZeroBubble", 5.9),
        ("ScheduleZBVZeroBubble", 5.9),
        ("ScheduleDualPipeV", 5.9),
    ],
)
def test_plans_of_two_stages_per_rank_have_the_known_bubbles(name: str, percent: float) -> None:
    assert bubble_percent(plan(name, 2, 8)) == percent


@pytest.mark.parametrize("num_microbatches", [4, 8, 10, 16])
def test_interleaved_1f1b_is_torchs(num_microbatches: int) -> None:
    ours = interleaved_1f1b(NUM_RANKS, num_microbatches, stages_per_rank=3)
    assert ours == plan("ScheduleInterleaved1F1B", 3, num_microbatches)


@pytest.mark.parametrize("num_microbatches", [4, 8, 16])
def test_zb_h1_is_torchs_zero_bubble_with_one_stage_per_rank(num_microbatches: int) -> None:
    ours = zb_h1(NUM_RANKS, num_microbatches)
    assert ours == plan("ScheduleInterleavedZeroBubble", 1, num_microbatches)


def test_gpipe_is_torchs() -> None:
    [stage] = stages(1)
    made = torch_schedules.ScheduleGPipe(stage, 8, loss_fn=lambda *_: None)
    assert read_pipeline_order(made.pipeline_order) == gpipe(NUM_RANKS, 8)


def test_1f1b_is_torchs_on_all_ranks_but_the_last() -> None:
    """torch 2.13 numbers the last rank's forwards from 1 in the plan, and does not run by it."""
    [stage] = stages(1)
    made = torch_schedules.Schedule1F1B(stage, 8, loss_fn=lambda *_: None)
    theirs = read_pipeline_order(made.pipeline_order)
    assert theirs.ranks[:-1] == one_f_one_b(NUM_RANKS, 8).ranks[:-1]


def test_the_plan_with_transfers_is_the_same_plan() -> None:
    made = torch_schedules.ScheduleInterleaved1F1B(stages(2), 8, loss_fn=lambda *_: None)
    with_transfers = read_pipeline_order(made.pipeline_order_with_comms)
    assert with_transfers == read_pipeline_order(made.pipeline_order)


def test_a_plan_as_text_is_read_as_well() -> None:
    order = {1: ["", "1F0", "(1F1;1B0)OVERLAP_F_B", "1B1"], 0: ["0UNSHARD", "0F0", None, "0B0"]}
    expected = "0F0 0B0 0STEP\n1F0 1F1 1B0 1B1 1STEP"
    assert str(read_pipeline_order(order)) == expected
