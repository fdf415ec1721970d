"""The schedules of torch.distributed.pipelining."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.runs import Run, check_is_shared, check_opens_windows, run_script
from tests.hydro_hpc.warm_python import WarmPython

pytestmark = pytest.mark.processes

SCHEDULES = (
    "ScheduleGPipe",
    "Schedule1F1B",
    "ScheduleInterleaved1F1B",
    "ScheduleInterleavedZeroBubble",
    "ScheduleZBVZeroBubble",
)
STEPS = 12
WORK_MS = 8
ACCUMULATION = 2  # runs of the schedule before the optimizer steps


def run(names: str, work_ms: int, warm: WarmPython, *, page_dir: Path | None) -> Run:
    arguments = (names, STEPS, work_ms, ACCUMULATION)
    return run_script("torch_pipelining", *arguments, page_dir=page_dir, run=warm.run_ranks)


@pytest.fixture(scope="module")
def unhooked(warm: WarmPython) -> Run:
    return run(",".join(SCHEDULES), 0, warm, page_dir=None)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_is_shared_by_the_optimizers_steps(
    schedule: str, unhooked: Run, warm: WarmPython, tmp_path: Path
) -> None:
    hooked = run(schedule, WORK_MS, warm, page_dir=tmp_path)
    assert hooked.losses(schedule) == unhooked.losses(schedule)
    assert sum(len(losses) for losses in hooked.losses(schedule)) == STEPS * ACCUMULATION * 4
    check_is_shared(hooked, steps=STEPS - 1)
    for rank in range(2):
        check_opens_windows(hooked, rank)
