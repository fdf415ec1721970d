"""What stops trials from outside, on real gangs: the owner's pause, and Slurm's suspend."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hydro_hpc.devices import cpu_core
from hydro_hpc.errors import EXIT_DONE
from hydro_hpc.identity import is_stopped
from hydro_hpc.page import Page, lane_dir, page_path
from hydro_hpc.page_layout import PageKind
from hydro_hpc.trial.process_tree import descendants
from slurm_plugin.lane_files import PageDir, Tenant, device_at
from slurm_plugin.step_processes import step_of
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import (
    PlayedPrimary,
    finish,
    read_results,
    start,
    start_trial,
    wait_until,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

LIMIT_MS: Final = 100
REPEATS: Final = 12
WINDOWS: Final = 5  # that pass unused, to be sure
JOB, ENDLESS = 1, 1_000_000


@pytest.fixture
def lane(tmp_path: Path) -> str:
    """A lane as root makes it."""
    folder = tmp_path / "pages"
    folder.mkdir(mode=0o755)
    made = PageDir(str(folder)).lane(0)
    device = device_at(0, "/dev/null", [min(os.sched_getaffinity(0))])
    made.lend(device, job_id=JOB, uid=os.getuid())
    made.admit(Tenant(JOB, 0, step_of(os.getpid())), uid=os.getuid())
    return lane_dir(str(folder), 0)


@pytest.fixture
def trial(lane: str) -> Page:
    return Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)


class Gang:
    """A gang of one that trains, or runs a command; ended with the test."""

    def __init__(self, process: subprocess.Popen[str], trial: Page) -> None:
        self.process = process
        wait_until(lambda: trial.get("num_runs") > 0)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            for pid in descendants(self.process.pid):
                with contextlib.suppress(ProcessLookupError):  # its parent was quicker
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def endless(lane: str, primary: PlayedPrimary, trial: Page, tmp_path: Path) -> Iterator[Gang]:
    gang = Gang(start(write_study(tmp_path, epochs=ENDLESS), lane), trial)
    let_windows_pass(primary)
    yield gang
    gang.end()


def switch(lane: str, verb: str) -> int:
    """Runs what `srun --overlap` runs on a node of the job; returns when that began, in ns."""
    started_ns = time.monotonic_ns()
    command = [sys.executable, "-m", "hydro_hpc.owner_word", str(JOB), verb]
    environment = {**os.environ, "HYDRO_PAGE_DIR": str(Path(lane).parent)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=30)
    return started_ns


def let_windows_pass(primary: PlayedPrimary) -> None:
    first = primary.page.get("gate_word") >> 8
    wait_until(lambda: primary.page.get("gate_word") >> 8 > first + WINDOWS)


def test_an_owners_pause_takes_effect_within_100_ms_of_reaching_the_node(
    lane: str, primary: PlayedPrimary, trial: Page, endless: Gang
) -> None:
    """From the start of the process to the end of the last run that the trial's page tells of."""
    took_ms = []
    for _ in range(REPEATS):
        paused_ns = switch(lane, "pause")
        let_windows_pass(primary)
        head = trial.get("ring_head")
        resumed_ns = switch(lane, "resume")
        wait_until(lambda head=head: trial.get("ring_head") > head + 3)  # it writes runs late
        runs = [run for _, run in trial.records()]
        last = max((run for run in runs if run.start_ns < resumed_ns), key=lambda run: run.end_ns)
        assert max(run.start_ns for run in runs) > resumed_ns
        took_ms.append(max(0, last.end_ns - paused_ns) / 1e6)
    assert endless.process.poll() is None
    print(f"pause: median {sorted(took_ms)[REPEATS // 2]:.0f} ms, most {max(took_ms):.0f} ms")
    assert max(took_ms) < LIMIT_MS


def suspend(gang: Gang) -> float:
    """Sends what slurmstepd sends at once, to the supervisor alone; returns ms until all stop."""
    pids = [gang.process.pid, *descendants(gang.process.pid)]
    assert len(pids) > 1
    started_s = time.monotonic()
    gang.process.send_signal(signal.SIGTSTP)
    while not all(map(is_stopped, pids)):
        assert time.monotonic() - started_s < 30, "they do not stop"
    return (time.monotonic() - started_s) * 1e3


def test_a_suspended_gang_stops_as_a_whole_within_100_ms_and_goes_on(
    primary: PlayedPrimary, trial: Page, endless: Gang
) -> None:
    took_ms = []
    for _ in range(REPEATS):
        took_ms.append(suspend(endless))
        before = trial.get("ring_head")
        let_windows_pass(primary)
        assert trial.get("ring_head") == before
        endless.process.send_signal(signal.SIGCONT)
        wait_until(lambda before=before: trial.get("ring_head") > before + 3)
    print(f"suspend: median {sorted(took_ms)[REPEATS // 2]:.0f} ms, most {max(took_ms):.0f} ms")
    assert max(took_ms) < LIMIT_MS


def test_a_suspended_study_completes_with_every_result_once(
    lane: str, primary: PlayedPrimary, trial: Page, tmp_path: Path
) -> None:
    study = write_study(tmp_path, trials=6, epochs=60)
    gang = Gang(start(study, lane), trial)
    for _ in range(3):
        suspend(gang)
        let_windows_pass(primary)
        gang.process.send_signal(signal.SIGCONT)
    assert finish(gang.process) == (EXIT_DONE, "")
    results = read_results(study)
    assert (results.completed, results.failed, results.in_work) == (6, 0, 0)


def test_a_suspended_command_stops_with_all_that_it_started(
    lane: str, primary: PlayedPrimary, trial: Page
) -> None:
    words = ["--exec", "--", "sh", "-c", "(while :; do :; done) & while :; do :; done"]
    gang = Gang(start_trial(words, lane), trial)
    try:
        wait_until(lambda: len(descendants(gang.process.pid)) == 3)
        pauser, *command = descendants(gang.process.pid)
        gang.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: is_stopped(gang.process.pid) and is_stopped(pauser))
        let_windows_pass(primary)  # the kernel has frozen the command's processes by then
        before = list(map(cpu_core.used_ns, command))
        let_windows_pass(primary)
        assert list(map(cpu_core.used_ns, command)) == before
        gang.process.send_signal(signal.SIGCONT)
        wait_until(
            lambda: all(cpu_core.used_ns(pid) > ns for pid, ns in zip(command, before, strict=True))
        )
    finally:
        gang.end()
