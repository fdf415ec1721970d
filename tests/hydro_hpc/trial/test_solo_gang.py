"""`hydro-trial` as a real process, alone on a lane: studies that go well, processes that end."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_DONE, EXIT_TRY_LATER
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind, RecordKind, Word
from hydro_hpc.study import load_study
from tests.hydro_hpc.lanes import make_lane, own_core, set_site_word
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import (
    PlayedPrimary,
    children,
    finish,
    read_results,
    start,
    wait_until,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a study of 6 trials has left."""

    study: Path
    folder: Path
    page: Page


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("finished")
    lane = make_lane(directory / "lanes", core=own_core(), tenant_job=1)
    study = write_study(directory)
    primary = PlayedPrimary(lane)
    try:
        assert finish(start(study, lane)) == (EXIT_DONE, "")
    finally:
        primary.stop()
    page = Page.read_copy(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    return Finished(study=study, folder=directory / "tiny.hydro", page=page)


def test_study_completes_in_windows_with_the_values_of_unfused_trials(finished: Finished) -> None:
    results = read_results(finished.study)
    assert (results.completed, results.failed) == (6, 0)
    assert results.best is not None
    alone = load_study(finished.study).run_alone(results.best.params, results.best.seed)
    assert alone == pytest.approx(results.best.value, rel=1e-4)
    assert finished.page.get("trials_done") == 6
    assert finished.page.get("num_samples") == 6 * 3 * 192
    assert any(record.kind == RecordKind.RUN for _, record in finished.page.records())
    assert list((finished.folder / "checkpoints").iterdir()) == []


def test_journal_is_optunas(finished: Finished) -> None:
    lines = (finished.folder / "journal.log").read_text().splitlines()
    assert lines
    assert all("op_code" in json.loads(line) for line in lines)


def test_no_training_happens_while_the_gate_is_closed(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    study = write_study(tmp_path, trials=4, epochs=10_000)
    process = start(study, lane)
    trial = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    wait_until(lambda: trial.get("num_samples") > 0)
    primary.is_shut.set()
    wait_until(lambda: not primary.page.get("gate_word") & GATE_OPEN)
    time.sleep(0.2)  # what was admitted ends
    before = trial.get("num_samples")
    time.sleep(0.5)
    assert trial.get("num_samples") == before
    process.send_signal(signal.SIGTERM)
    code, errors = finish(process)
    assert code == 128 + signal.SIGTERM
    assert "the study goes on where it was" in errors


@pytest.mark.usefixtures("primary")
def test_lane_that_goes_away_ends_with_75_and_the_next_run_loses_nothing(
    tmp_path: Path, lane: str
) -> None:
    study = write_study(tmp_path, trials=5, epochs=30)
    process = start(study, lane)
    trial = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    wait_until(lambda: trial.get("num_samples") > 0)
    set_site_word(lane, Word.GONE)
    process.send_signal(signal.SIGTERM)  # as the eviction barrier does
    code, errors = finish(process)
    assert code == EXIT_TRY_LATER
    assert "the job that lent it has ended" in errors
    assert len(list((tmp_path / "tiny.hydro/checkpoints").glob("*.pt"))) == 4
    set_site_word(lane, Word.RUN)
    code, errors = finish(start(study, lane))
    assert (code, errors) == (EXIT_DONE, "")
    results = read_results(study)
    assert (results.completed, results.failed) == (5, 0)
    assert results.best is not None
    alone = load_study(study).run_alone(results.best.params, results.best.seed)
    assert alone == pytest.approx(results.best.value, rel=1e-3)


@pytest.mark.usefixtures("primary")
def test_nothing_of_a_gang_preempts_a_primary_that_computes(tmp_path: Path, lane: str) -> None:
    process = start(write_study(tmp_path, trials=5, epochs=10_000), lane)
    trial = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    wait_until(lambda: trial.get("num_samples") > 0)
    pids = [process.pid, *(pid for pid, _ in children(process.pid))]
    classes = {os.sched_getscheduler(pid) for pid in pids}
    process.send_signal(signal.SIGTERM)
    finish(process)
    assert len(pids) == 3
    assert classes <= {os.SCHED_BATCH, os.SCHED_IDLE}


@pytest.mark.usefixtures("primary")
def test_killed_worker_is_started_again_and_no_result_is_lost(tmp_path: Path, lane: str) -> None:
    study = write_study(tmp_path, trials=5, epochs=30)
    process = start(study, lane)
    trial = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    wait_until(lambda: trial.get("num_samples") > 0)
    [worker] = [pid for pid, line in children(process.pid) if "trial.worker" in line]
    os.kill(worker, signal.SIGKILL)
    code, errors = finish(process)
    assert (code, errors) == (EXIT_DONE, "")
    results = read_results(study)
    assert (results.completed, results.failed) == (5, 0)


@pytest.mark.usefixtures("primary")
def test_killed_supervisor_leaves_no_process_behind(tmp_path: Path, lane: str) -> None:
    process = start(write_study(tmp_path, epochs=10_000), lane)
    trial = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    wait_until(lambda: trial.get("num_samples") > 0)
    started = [pid for pid, _ in children(process.pid)]
    assert len(started) == 2
    process.kill()
    process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


@pytest.mark.usefixtures("primary")
def test_says_how_the_study_ended_and_what_was_not_fused(tmp_path: Path, lane: str) -> None:
    before = """
        class Branches(Net):
            def forward(self, x):
                return self.layers(x) * (1.0 if x.sum().item() else 2.0)
    """
    study = write_study(tmp_path, trials=3, epochs=1, model="Branches", before=before)
    output, errors = start(study, lane).communicate(timeout=120)
    assert errors == ""
    first, fused, last = output.splitlines()
    assert first == "hydro-trial: gang of 1"
    assert fused.startswith("hydro-trial: trials train one by one, ")
    assert last.startswith("hydro-trial: 3 trials completed, 0 failed; best: ")
    assert last.endswith(f"kept in {tmp_path / 'tiny.hydro'}")


@pytest.mark.usefixtures("primary")
def test_dropout_draws_the_same_in_a_bundle_and_alone(tmp_path: Path, lane: str) -> None:
    before = """
        class Dropping(Net):
            def __init__(self):
                super().__init__()
                self.layers.insert(2, nn.Dropout(0.3))
    """
    study = write_study(tmp_path, trials=4, model="Dropping", before=before)
    code, errors = finish(start(study, lane))
    assert (code, errors) == (EXIT_DONE, "")
    best = read_results(study).best
    assert best is not None
    alone = load_study(study).run_alone(best.params, best.seed)
    assert alone == pytest.approx(best.value, rel=1e-4)
