"""`hydro-trial` as a real process on a lane whose primary is played by a thread, for tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, PrimaryState, Word
from hydro_hpc.study import load_study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Results, Search
from hydro_hpc.wait import FutexWord
from tests.hydro_hpc.lanes import stage_page


class PlayedPrimary:
    """Opens the gate for `open_s` and shuts it for `shut_s`, from a thread of the test."""

    def __init__(self, lane: str, *, open_s: float = 0.040, shut_s: float = 0.010) -> None:
        self.lane = lane
        self._open_s, self._shut_s = open_s, shut_s
        self.page = stage_page(lane)
        self.page.set("guard_word", Word.RUN)
        self.page.set("owner_word", Word.RUN)
        self.page.set("state", PrimaryState.SHARING)
        self.page.words[self.page.word_index("window_us")] = int(open_s * 1e6)
        self.is_shut = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        wake = FutexWord(self.page, "gate_word").wake_all
        epoch = 0
        while not self._stopped.wait(self._shut_s):
            if self.is_shut.is_set():
                continue
            epoch += 1
            opened_ns = time.monotonic_ns()
            self.page.set("open_ns", opened_ns)
            self.page.set("gate_word", epoch << 8 | GATE_OPEN)
            wake()
            self._stopped.wait(self._open_s)
            closed_ns = time.monotonic_ns()
            self.page.set("close_ns", closed_ns)
            self.page.set("gate_word", epoch << 8 | GATE_CLOSED)
            open_ns = self.page.get("open_until_now_ns") + closed_ns - opened_ns
            self.page.set("open_until_now_ns", open_ns)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def start(
    study: Path, lane: str, *, join: Callable[[], None] | None = None, **settings: str
) -> subprocess.Popen[str]:
    return start_trial([str(study)], lane, join=join, **settings)


def start_trial(
    arguments: list[str], lane: str, *, join: Callable[[], None] | None = None, **settings: str
) -> subprocess.Popen[str]:
    """Starts `hydro-trial` beside the lanes, which is where its folder will be.

    `join` puts the process into a cgroup.
    """
    environment = {
        **os.environ,
        "HYDRO_PAGE_DIR": str(Path(lane).parent),
        "HYDRO_LANES": "0",
        "HYDRO_ROLE": "take",
        "SLURM_JOB_ID": "1",
        "HYDRO_IDLE_CLASS": "0",  # other tests may keep the core busy
        "HYDRO_GRACE_MS": "1000",  # and delay what they share it with
        **settings,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "hydro_hpc.trial.command", *arguments],
        cwd=Path(lane).parent.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=join,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> tuple[int, str]:
    """Returns (exit code, what it said on stderr)."""
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        pytest.fail(f"hydro-trial did not end: {errors}")
    return process.returncode, errors


def read_results(study: Path) -> Results:
    with _search(study) as search:
        return search.results()


def read_outcomes(study: Path, count: int) -> list[str]:
    """Returns how each of the first trials ended, with the reason."""
    with _search(study) as search:
        return [search.outcome(number) for number in range(count)]


@contextlib.contextmanager
def _search(study: Path) -> Iterator[Search]:
    description = load_study(study).description
    search = Search(description, StudyFolder(study.parent, description.name))
    try:
        yield search
    finally:
        search.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)


def children(pid: int) -> list[tuple[int, str]]:
    """Returns (pid, command line) of the processes that `pid` started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = []
    for child in map(int, text.split()):
        found.append((child, Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")))
    return found
