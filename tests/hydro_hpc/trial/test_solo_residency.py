"""Workers that do not come back to their gate, as real processes on a lane."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc.devices import cpu_core
from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, EXIT_TRY_LATER
from hydro_hpc.identity import is_stopped
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind, Word
from hydro_hpc.trial.residency import STRIKES_UNTIL_END
from tests.hydro_hpc.lanes import set_site_word
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import PlayedPrimary, children, finish, start, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

GRACE_MS = 100
LATE_MS = 300  # a supervisor looks every 50 ms, and this host may be busy
SPIN = "re.match(r'(a+)+$', 'a' * 60 + 'b')"  # one C call, for years, that keeps the GIL
BLOCK = "os.read(os.pipe()[0], 1)"  # Python resumes it after a signal


class Gang:
    """A gang of one whose models do `what` in their forward once `misbehave` was called. They
    branch, so they are not fused: their own forward runs.
    """

    def __init__(
        self,
        directory: Path,
        lane: str,
        primary: PlayedPrimary,
        what: str,
        settings: dict[str, str],
    ) -> None:
        self._flag = directory / "misbehave"
        self._is_there = directory / "misbehaves"
        before = f"""
            import os, pathlib, re
            class Bad(Net):
                def forward(self, x):
                    if os.path.exists({str(self._flag)!r}):
                        pathlib.Path({str(self._is_there)!r}).touch()
                        {what}
                    return self.layers(x) * (1.0 if x.sum().item() else 2.0)
        """
        self._primary = primary
        study = write_study(directory, trials=5, epochs=40, model="Bad", before=before)
        self.process = start(study, lane, HYDRO_GRACE_MS=str(GRACE_MS), **settings)
        page = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
        wait_until(lambda: page.get("num_samples") > 0)
        [self.worker] = [pid for pid, line in children(self.process.pid) if "trial.worker" in line]

    def misbehave(self) -> None:
        self._flag.touch()
        wait_until(self._is_there.exists)

    def shut(self) -> None:
        self._primary.is_shut.set()
        wait_until(lambda: not self._primary.page.get("gate_word") & GATE_OPEN)

    def open(self) -> None:
        self._primary.is_shut.clear()

    def is_over(self) -> bool:
        return self.process.poll() is not None


@pytest.fixture
def gang(
    tmp_path: Path, lane: str, primary: PlayedPrimary, request: pytest.FixtureRequest
) -> Iterator[Gang]:
    what, settings = getattr(request, "param", ("pass", {}))
    started = Gang(tmp_path, lane, primary, what, settings)
    yield started
    if not started.is_over():
        started.process.kill()
        started.process.communicate()


@pytest.mark.parametrize("gang", [(SPIN, {})], ids=["spins"], indirect=True)
def test_worker_that_never_returns_from_c_is_stopped_continued_and_ended_in_the_end(
    gang: Gang,
) -> None:
    gang.misbehave()
    for strike in range(1, STRIKES_UNTIL_END):
        gang.shut()
        before_ns = cpu_core.used_ns(gang.worker)
        wait_until(lambda: is_stopped(gang.worker))
        used_ms = (cpu_core.used_ns(gang.worker) - before_ns) / 1e6
        assert used_ms < GRACE_MS + LATE_MS, strike
        gang.open()
        wait_until(lambda: not is_stopped(gang.worker))
    gang.shut()
    code, errors = finish(gang.process)
    assert code == EXIT_FAILED
    assert errors == (
        "hydro-trial: the worker of rank 0 was ended: "
        "it used the device outside its windows again and again\n"
    )
    assert not Path(f"/proc/{gang.worker}").exists()


@pytest.mark.parametrize("gang", [(BLOCK, {"HYDRO_LEAVE_S": "2"})], ids=["blocks"], indirect=True)
def test_worker_that_sleeps_in_a_system_call_is_left_alone_and_leaves_with_a_lane_that_goes(
    gang: Gang, lane: str
) -> None:
    gang.misbehave()
    gang.shut()
    give_up = time.monotonic() + 1
    while time.monotonic() < give_up:
        assert not is_stopped(gang.worker)
        time.sleep(0.01)
    set_site_word(lane, Word.GONE)  # the worker cannot see it, and nobody sends a signal
    code, errors = finish(gang.process)
    assert code == EXIT_TRY_LATER
    assert "the job that lent it has ended" in errors


def test_worker_that_somebody_else_stopped_is_reported_and_left_to_him(gang: Gang) -> None:
    os.kill(gang.worker, signal.SIGSTOP)
    assert gang.process.stderr is not None
    assert gang.process.stderr.readline() == (
        "hydro-trial: the worker of rank 0: "
        "it was stopped by a signal that is not ours, and waits for SIGCONT\n"
    )
    assert is_stopped(gang.worker)
    os.kill(gang.worker, signal.SIGCONT)
    assert finish(gang.process) == (EXIT_DONE, "")


def test_worker_that_somebody_else_stopped_is_continued_to_leave(gang: Gang) -> None:
    os.kill(gang.worker, signal.SIGSTOP)
    wait_until(lambda: is_stopped(gang.worker))
    gang.process.send_signal(signal.SIGTERM)
    code, errors = finish(gang.process, timeout_s=15)  # well before it would be killed
    assert code == 128 + signal.SIGTERM
    assert "the study goes on where it was" in errors
