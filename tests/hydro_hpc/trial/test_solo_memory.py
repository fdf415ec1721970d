"""`hydro-trial` as a real process whose memory shrinks: by a real limit, and by the page alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hydro_hpc.errors import EXIT_DONE, EXIT_TRY_LATER
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, TrialState
from hydro_hpc.study import load_study
from hydro_hpc.study.trial import trial_seed
from tests.hydro_hpc.memory_limit import limited_cgroup
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import PlayedPrimary, finish, read_results, start, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

MB = 1_000_000
NEAR_MB = 200  # more than a bundle's first gradients take, which its first look may not know of
NOISE_MB = 20
WIDE = """
    class Wide(Net):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(8, 1000), nn.Tanh(), nn.Linear(1000, 1000), nn.Tanh(),
                nn.Linear(1000, 2))
"""
GROWING = """
import sys, time
held = []
print("up", flush=True)
for line in sys.stdin:
    num_mb, pause_s = int(line.split()[0]), float(line.split()[1])
    held = held[:num_mb]
    while len(held) < num_mb:
        held += [b"x" * 1_000_000 for _ in range(10)]
        time.sleep(pause_s)
    print("held", flush=True)
"""


class GrowingPrimary:
    """A process that holds as much memory as it is told to."""

    def __init__(self, join: Callable[[], None]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GROWING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=join,
        )
        self._wait_for("up\n")

    def hold(self, num_mb: int, *, pause_s: float = 0) -> None:
        """`pause_s`: after each 10 MB more."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{num_mb} {pause_s}\n")
        self.process.stdin.flush()
        self._wait_for("held\n")

    def _wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == word


@contextmanager
def growing_primary(join: Callable[[], None]) -> Iterator[GrowingPrimary]:
    primary = GrowingPrimary(join)
    try:
        yield primary
    finally:
        primary.process.kill()
        primary.process.communicate()


@contextmanager
def running(
    study: Path, lane: str, join: Callable[[], None] | None = None, **settings: str
) -> Iterator[subprocess.Popen[str]]:
    """`hydro-trial`, ended in any case: its worker notices that it is alone."""
    process = start(study, lane, join=join, **settings)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def trial_page(lane: str) -> Page:
    return Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)


def mb(page: Page, name: Literal["room", "need"]) -> int:
    return page.get(f"memory_{name}_bytes") // MB


def spare_mb(page: Page) -> int:
    """Returns how much more the primary could take, as the worker has seen it last."""
    return mb(page, "room") - mb(page, "need")


def values_by_number(study: Path) -> dict[int, tuple[dict[str, float], float | None]]:
    journal = JournalStorage(JournalFileBackend(str(study.parent / "tiny.hydro/journal.log")))
    trials = optuna.load_study(study_name="tiny", storage=journal).trials
    return {trial.number: (trial.params, trial.value) for trial in trials}


@pytest.mark.usefixtures("primary")
def test_primary_that_grows_gets_the_memory_and_no_trial_notices(tmp_path: Path, lane: str) -> None:
    """One memory limit for both, as in a study beside one's own training."""
    study = write_study(tmp_path, trials=9, epochs=3, model="Wide", before=WIDE)
    text = study.read_text().replace("slots=4", "slots=8")
    text = text.replace("batch_size=32", "batch_size=8")  # short units of work, for busy machines
    study.write_text(text.replace('"adam"', '"sgd"'))  # Adam follows its gradients' rounding
    with (
        limited_cgroup(1700 * MB) as cgroup,
        growing_primary(cgroup.join) as grower,
        running(study, lane, cgroup.join, HYDRO_PATIENCE_S="0.5") as process,
    ):
        page = trial_page(lane)
        wait_until(lambda: page.get("num_samples") > 0 and page.get("memory_need_bytes") > 0)
        assert page.get("num_slots") == 8
        room_mb, first_mb = mb(page, "room"), spare_mb(page) - NEAR_MB
        grower.hold(first_mb)
        wait_until(lambda: mb(page, "room") < room_mb - first_mb + NOISE_MB)  # it has looked since
        grower.hold(first_mb + spare_mb(page), pause_s=0.1)
        wait_until(lambda: page.get("num_slots") < 8 and page.get("state") != TrialState.STARTING)
        assert page.get("trials_done") == 0
        grower.hold(0)
        code, errors = finish(process, timeout_s=200)
        assert (code, errors) == (EXIT_DONE, "")
        assert grower.process.poll() is None
        assert cgroup.num_killed() == 0
    found = values_by_number(study)
    assert sorted(found) == list(range(9))
    loaded = load_study(study)
    for number, (params, value) in found.items():
        alone = loaded.run_alone(params, trial_seed(loaded.seed, number))
        assert value == pytest.approx(alone, rel=1e-5)


def test_bubbles_are_skipped_while_no_slot_fits_and_used_again_after(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    study = write_study(tmp_path, trials=5, epochs=80)
    process = start(study, lane, HYDRO_PATIENCE_S="0.5")
    page = trial_page(lane)
    wait_until(lambda: page.get("num_samples") > 0)
    primary.page.set("memory_peak_bytes", 1)
    primary.page.set("memory_limit_bytes", int(page.get("memory_need_bytes") * 1.02))
    wait_until(lambda: page.get("state") == TrialState.SKIPPING)
    assert page.get("num_slots") == 0
    trained = page.get("num_samples")
    assert len(list((tmp_path / "tiny.hydro/checkpoints").glob("*.pt"))) >= 4
    assert page.get("memory_need_bytes") * 1.1 > page.get("memory_room_bytes")
    assert page.get("num_samples") == trained
    primary.page.set("memory_limit_bytes", 1 << 40)
    code, errors = finish(process)
    assert (code, errors) == (EXIT_DONE, "")
    results = read_results(study)
    assert (results.completed, results.failed) == (5, 0)
    assert page.get("trials_done") == 5


def test_gang_that_arrives_where_no_slot_fits_goes_elsewhere(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    primary.page.set("memory_limit_bytes", 1000 * MB)
    primary.page.set("memory_peak_bytes", 900 * MB)
    code, errors = finish(start(write_study(tmp_path), lane))
    assert code == EXIT_TRY_LATER
    assert "too little memory" in errors
    assert "and 100 MB are left" in errors


def test_gate_that_stays_shut_keeps_no_memory_from_the_primary(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    process = start(write_study(tmp_path, epochs=10_000), lane)
    page = trial_page(lane)
    wait_until(lambda: page.get("num_samples") > 0)
    primary.is_shut.set()
    primary.page.set("memory_limit_bytes", int(page.get("memory_need_bytes") * 1.02))
    wait_until(lambda: page.get("state") == TrialState.SKIPPING)
    process.terminate()
    finish(process)
