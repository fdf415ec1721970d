"""What the hooks cost the primary per communication call when nothing is opened."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.result_file import Figure
from hydro_hpc.devices.memory import InMemoryDevice
from hydro_hpc.primary.guard import Guard, GuardSettings
from hydro_hpc.primary.hooks import Boundary
from hydro_hpc.primary.publisher import Publisher
from tests.hydro_hpc.lanes import make_lane, stage_page

CALLS_PER_STEP: Final = 24
STEPS: Final = 2_000
NAMES: Final = ("send", "recv", "all_reduce")


def call_cost_us() -> Figure:
    """Returns the time that a hooked call which does nothing takes beyond the bare one, median over
    steps of `CALLS_PER_STEP` calls; the books at the end of a step are not in it.
    """
    with tempfile.TemporaryDirectory() as directory:
        publisher = Publisher(
            stage_page(make_lane(Path(directory))),
            guard=Guard(GuardSettings()),
            wake_all=lambda: None,
            read_tenant=lambda: 0,
            memory=InMemoryDevice(limit_bytes=1 << 30),
        )
        boundary = Boundary()
        boundary.publisher = publisher
        boundary.thread_id = threading.get_ident()
        hooked = [boundary.wrap(_nothing, name) for name in NAMES] * (CALLS_PER_STEP // 3)
        bare = [_nothing] * CALLS_PER_STEP
        costs = []
        for step in range(STEPS):
            publisher.begin_step(step)
            costs.append((_time_s(hooked) - _time_s(bare)) / CALLS_PER_STEP * 1e6)
    low, middle, high = statistics.quantiles(costs, n=4)
    return Figure(median=middle, low=low, high=high, n=STEPS, unit="us, quartiles")


def _nothing(_tensor: object = None) -> None:
    pass


def _time_s(calls: Sequence[Callable[..., None]]) -> float:
    started = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - started


if __name__ == "__main__":
    print(call_cost_us())
