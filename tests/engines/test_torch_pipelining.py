"""The schedules of torch.distributed.pipelining."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.runs import Run, check_is_shared, check_opens_windows, run_script

pytestmark = pytest.mark.processes

SCHEDULES = (
    "ScheduleGPipe",
    "Schedule1F1B",
    "ScheduleInterleaved1F1B",
    "ScheduleInterleavedZeroBubble",
    "ScheduleZBVZeroBubble",
)
STEPS = 20
WORK_MS = 2
ACCUMULATION = 2  # runs of the schedule before the optimizer steps


@pytest.fixture(scope="module")
def unhooked() -> Run:
    return run_script(
        "torch_pipelining", ",".join(SCHEDULES), STEPS, 0, ACCUMULATION, page_dir=None
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_is_shared_by_the_optimizers_steps(
    schedule: str, unhooked: Run, tmp_path: Path
) -> None:
    run = run_script("torch_pipelining", schedule, STEPS, WORK_MS, ACCUMULATION, page_dir=tmp_path)
    assert run.losses(schedule) == unhooked.losses(schedule)
    assert sum(len(losses) for losses in run.losses(schedule)) == STEPS * ACCUMULATION * 4
    check_is_shared(run, steps=STEPS - 1)
    for rank in range(2):
        check_opens_windows(run, rank)
