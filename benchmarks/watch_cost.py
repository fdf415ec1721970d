"""What the supervisors of one node cost together: real supervisors, simulated pages and workers.

python -m benchmarks.watch_cost              (prints; benchmarks/squeeze.py takes the figure)
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.result_file import Figure
from hydro_hpc.config import Settings
from hydro_hpc.devices import cpu_core
from hydro_hpc.page import Page, lane_dir, page_path
from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, PageKind, PrimaryState, TrialState, Word
from hydro_hpc.trial import resident
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.gang import SoloGang
from hydro_hpc.trial.job import StudyJob
from hydro_hpc.trial.lane import TenantLane
from hydro_hpc.trial.supervisor import Child, Supervisor
from tests.hydro_hpc.lanes import make_lane, stage_page

DEVICES: Final = (1, 64)
PERIOD_S: Final = 0.16  # of the simulated primaries' steps
OPEN_S: Final = 0.04
WARM_S: Final = 5.0  # after all have come to rest
REST_S: Final = 60.0  # at most, until then
MEASURED_S: Final = 20.0


class Watching(Supervisor):
    """A supervisor whose worker only sleeps, and is trusted from the start."""

    def _start_worker(self, job: StudyJob) -> None:  # noqa: ARG002
        ours, self._theirs = socket.socketpair()
        sleeper = subprocess.Popen(["sleep", "3600"], preexec_fn=cpu_core.die_with_parent)
        self._worker = Child(sleeper, Channel(ours))
        self._watch(self._worker, is_gated=True)


def watch(lane: str) -> None:
    """One supervisor, until it is killed."""
    cpu_core.die_with_parent()
    setattr(resident, "TRUSTED_NS", 0)  # noqa: B010
    page = Page.map_for_writing(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    page.set("state", TrialState.TRAINING)
    job = StudyJob(file=Path("none.py"), directory=Path(), slots=None)
    Watching(gang=SoloGang(), lane=TenantLane(lane), job=job, settings=Settings()).run()


def host(lanes: list[str]) -> None:
    """Starts a supervisor per lane as a copy of this process, so that they need no imports of their
    own, and says their pids.
    """
    pids = []
    for lane in lanes:
        pid = os.fork()
        if not pid:
            watch(lane)
            os._exit(0)
        pids.append(pid)
    print(*pids, flush=True)
    signal.pause()


@contextlib.contextmanager
def supervisors(lanes: list[str]) -> Iterator[list[int]]:
    command = [sys.executable, "-m", "benchmarks.watch_cost", *lanes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield [int(pid) for pid in process.stdout.readline().split()]
        finally:
            process.kill()


def play(pages: list[Page], *, seconds: float) -> None:
    """Opens and closes all gates as primaries do, for so long."""
    end_s = time.monotonic() + seconds
    epoch = 0
    while time.monotonic() < end_s:
        epoch += 1
        for page in pages:
            page.set("open_ns", time.monotonic_ns())
            page.set("gate_word", epoch << 8 | GATE_OPEN)
        time.sleep(OPEN_S)
        for page in pages:
            page.set("gate_word", epoch << 8 | GATE_CLOSED)
        time.sleep(PERIOD_S - OPEN_S)


def wait_for_rest(pids: list[int], pages: list[Page]) -> None:
    """Returns once all supervisors have started, imports and all."""
    give_up_s = time.monotonic() + REST_S
    used_ns = 0
    while time.monotonic() < give_up_s:
        before_ns, used_ns = used_ns, sum(map(cpu_core.used_ns, pids))
        if before_ns and used_ns - before_ns < 10**9 * WARM_S / 10:
            return
        play(pages, seconds=WARM_S)
    raise TimeoutError("the supervisors of the benchmark do not come to rest")


def watch_core_share(devices: int, *, seconds: float = MEASURED_S) -> Figure:
    """Returns the CPU time of all supervisors / time, once their workers are trusted."""
    with tempfile.TemporaryDirectory() as directory:
        lanes = [make_lane(Path(directory), number) for number in range(devices)]
        pages = [stage_page(lane) for lane in lanes]
        for page in pages:
            page.set("guard_word", Word.RUN)
            page.set("owner_word", Word.RUN)
            page.set("state", PrimaryState.SHARING)
        with supervisors([lane_dir(directory, number) for number in range(devices)]) as pids:
            wait_for_rest(pids, pages)
            before_ns = sum(map(cpu_core.used_ns, pids))
            started_s = time.monotonic()
            play(pages, seconds=seconds)
            share = (sum(map(cpu_core.used_ns, pids)) - before_ns) / 1e9
            share /= time.monotonic() - started_s
    return Figure(median=share, low=share, high=share, n=devices, unit="cores")


def main() -> None:
    if len(sys.argv) > 1:
        host(sys.argv[1:])
        return
    for devices in DEVICES:
        print(f"{devices} devices: {watch_core_share(devices).median:.3%} of a core")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
