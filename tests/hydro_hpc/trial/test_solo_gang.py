"""`hydro-trial` as a real process on a lane of this test, whose primary is played by a thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, EXIT_TRY_LATER, EXIT_USAGE
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, PageKind, PrimaryState, RecordKind, Word
from hydro_hpc.study import load_study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Results, Search
from hydro_hpc.wait import FutexWord
from tests.hydro_hpc.lanes import make_lane, set_site_word, stage_page
from tests.hydro_hpc.tiny_study import write_study

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


class PlayedPrimary:
    """Opens the gate for 40 ms of every 50 ms, from a thread of the test."""

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.page = stage_page(lane)
        self.page.set("guard_word", Word.RUN)
        self.page.set("owner_word", Word.RUN)
        self.page.set("state", PrimaryState.SHARING)
        self.page.words[self.page.word_index("window_us")] = 40_000
        self.is_shut = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        wake = FutexWord(self.page, "gate_word").wake_all
        epoch = 0
        while not self._stopped.wait(0.010):
            if self.is_shut.is_set():
                continue
            epoch += 1
            self.page.set("open_ns", time.monotonic_ns())
            self.page.set("gate_word", epoch << 8 | GATE_OPEN)
            wake()
            self._stopped.wait(0.040)
            self.page.set("close_ns", time.monotonic_ns())
            self.page.set("gate_word", epoch << 8 | GATE_CLOSED)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.fixture
def lane(tmp_path: Path) -> str:
    return make_lane(tmp_path / "lanes", core=min(os.sched_getaffinity(0)), tenant_job=1)


@pytest.fixture
def primary(lane: str) -> Iterator[PlayedPrimary]:
    played = PlayedPrimary(lane)
    yield played
    played.stop()


def start(study: Path, lane: str, **settings: str) -> subprocess.Popen[str]:
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
        [sys.executable, "-m", "hydro_hpc.trial.command", str(study)],
        cwd=study.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
    description = load_study(study).description
    search = Search(description, StudyFolder(study.parent, description.name))
    try:
        return search.results()
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


@pytest.mark.usefixtures("primary")
def test_study_completes_in_windows_with_the_values_of_unfused_trials(
    tmp_path: Path, lane: str
) -> None:
    study = write_study(tmp_path)
    code, errors = finish(start(study, lane))
    assert (code, errors) == (EXIT_DONE, "")
    results = read_results(study)
    assert (results.completed, results.failed) == (6, 0)
    assert results.best is not None
    alone = load_study(study).run_alone(results.best.params, results.best.seed)
    assert alone == pytest.approx(results.best.value, rel=1e-4)
    trial = Page.read_copy(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    assert trial.get("trials_done") == 6
    assert trial.get("num_samples") == 6 * 3 * 192
    assert any(record.kind == RecordKind.RUN for _, record in trial.records())
    assert list((tmp_path / "tiny.hydro/checkpoints").iterdir()) == []


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
    study = write_study(tmp_path, trials=5, epochs=60)
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
def test_killed_worker_is_started_again_and_no_result_is_lost(tmp_path: Path, lane: str) -> None:
    study = write_study(tmp_path, trials=5, epochs=100)
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
def test_trial_that_raises_fails_alone_with_its_traceback_in_its_log(
    tmp_path: Path, lane: str
) -> None:
    before = """
        count = 0
        def model():
            global count
            count += 1
            if torch.initial_seed() % 2:
                raise RuntimeError("this one cannot be built")
            return Net()
    """
    study = write_study(tmp_path, trials=8, model="model", before=before)
    odd = [s for s in _seeds(study, 8) if s % 2]
    assert 0 < len(odd) < 8
    code, errors = finish(start(study, lane))
    assert code == EXIT_DONE, errors
    results = read_results(study)
    assert (results.completed, results.failed) == (8 - len(odd), len(odd))
    logs = list((tmp_path / "tiny.hydro/trials").iterdir())
    assert len(logs) == len(odd)
    assert "RuntimeError: this one cannot be built" in logs[0].read_text()


def _seeds(study: Path, count: int) -> list[int]:
    from hydro_hpc.study.trial import trial_seed

    return [trial_seed(load_study(study).seed, number) for number in range(count)]


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
    assert fused.startswith("hydro-trial: trials are exact but not fused: ")
    assert last.startswith("hydro-trial: 3 trials completed, 0 failed; best: ")
    assert last.endswith(f"kept in {tmp_path / 'tiny.hydro'}")


@pytest.mark.usefixtures("primary")
def test_study_of_which_nothing_completed_has_failed(tmp_path: Path, lane: str) -> None:
    study = write_study(tmp_path, trials=3, loss="lambda o, t: o.sum() * float('nan')")
    process = start(study, lane)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_FAILED
    assert errors == "hydro-trial: the study is over, and no trial of it completed\n"
    assert "3 failed; trial 0: fail: its loss was nan in epoch 0, step 1" in output


@pytest.mark.usefixtures("primary")
def test_loss_that_is_not_finite_fails_that_trial_alone(tmp_path: Path, lane: str) -> None:
    before = """
        class Net2(Net):
            def __init__(self):
                super().__init__()
                if torch.initial_seed() % 2:
                    with torch.no_grad():
                        self.layers[0].weight.fill_(float("inf"))
    """
    study = write_study(tmp_path, trials=8, model="Net2", before=before)
    odd = [s for s in _seeds(study, 8) if s % 2]
    code, errors = finish(start(study, lane))
    assert code == EXIT_DONE, errors
    results = read_results(study)
    assert (results.completed, results.failed) == (8 - len(odd), len(odd))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"before": "import no_such_module"}, "No module named 'no_such_module'"),
        ({"before": "log_uniform = lambda *a: 0.1"}, "the space is empty"),
        ({"loss": "nn.CrossEntropyLoss(reduction='none')"}, "return a scalar"),
    ],
)
@pytest.mark.usefixtures("primary")
def test_wrong_study_is_one_sentence_and_exit_code_2(
    tmp_path: Path, lane: str, change: dict[str, str], sentence: str
) -> None:
    code, errors = finish(start(write_study(tmp_path, **change), lane))  # type: ignore[arg-type]
    assert code == EXIT_USAGE
    assert sentence in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.usefixtures("primary")
def test_models_that_differ_in_shape_are_one_sentence(tmp_path: Path, lane: str) -> None:
    before = """
        def model():
            width = 4 + torch.initial_seed() % 5
            return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))
    """
    study = write_study(tmp_path, model="model", before=before)
    code, errors = finish(start(study, lane))
    assert code == EXIT_FAILED
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1


def test_job_that_never_pipelines_tells_the_gang_why(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    primary.page.set("state", PrimaryState.NOT_PIPELINED)
    code, errors = finish(start(write_study(tmp_path), lane))
    assert code == EXIT_TRY_LATER
    assert "no bubbles" in errors


def test_primary_that_does_not_come_up_is_waited_for_and_then_given_up(
    tmp_path: Path, lane: str
) -> None:
    code, errors = finish(start(write_study(tmp_path), lane, HYDRO_ARRIVAL_S="1"))
    assert code == EXIT_TRY_LATER
    assert "did not come up in 1 s" in errors


def test_step_without_a_lane_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HYDRO_")}
    result = subprocess.run(
        [sys.executable, "-m", "hydro_hpc.trial.command", str(write_study(tmp_path))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == EXIT_TRY_LATER
    assert "sbatch --bubbles=N" in result.stderr


@pytest.mark.usefixtures("primary")
def test_journal_is_optunas(tmp_path: Path, lane: str) -> None:
    study = write_study(tmp_path, trials=2, epochs=1)
    code, errors = finish(start(study, lane))
    assert code == EXIT_DONE, errors
    lines = (tmp_path / "tiny.hydro/journal.log").read_text().splitlines()
    assert all("op_code" in json.loads(line) for line in lines)


@pytest.mark.usefixtures("primary")
def test_trial_that_raises_while_it_trains_fails_alone(tmp_path: Path, lane: str) -> None:
    before = """
        class Odd(Net):
            def __init__(self):
                super().__init__()
                self.is_odd = torch.initial_seed() % 2
                self.calls = 0
            def forward(self, x):
                self.calls += 1
                if self.is_odd and self.calls > 5:
                    raise ValueError("odd ones stop here")
                return super().forward(x)
    """
    study = write_study(tmp_path, trials=8, model="Odd", before=before)
    odd = [s for s in _seeds(study, 8) if s % 2]
    code, errors = finish(start(study, lane))
    assert code == EXIT_DONE, errors
    results = read_results(study)
    assert (results.completed, results.failed) == (8 - len(odd), len(odd))
    logs = [path.read_text() for path in (tmp_path / "tiny.hydro/trials").iterdir()]
    assert len(logs) == len(odd)
    assert all("ValueError: odd ones stop here" in log for log in logs)


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
