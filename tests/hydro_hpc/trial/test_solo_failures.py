"""`hydro-trial` as a real process: trials and studies that fail, lanes that are of no use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, EXIT_TRY_LATER, EXIT_USAGE
from hydro_hpc.page_layout import PrimaryState
from hydro_hpc.study import load_study
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import (
    PlayedPrimary,
    finish,
    read_outcomes,
    read_results,
    start,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@pytest.mark.usefixtures("primary")
def test_trials_fail_alone_and_say_why(tmp_path: Path, lane: str) -> None:
    """Some cannot be built, which is in a log of their own; some have a loss that is not finite."""
    before = """
        class Net2(Net):
            def __init__(self):
                super().__init__()
                if torch.initial_seed() % 3 == 1:
                    raise RuntimeError("this one cannot be built")
                if torch.initial_seed() % 3 == 2:
                    with torch.no_grad():
                        self.layers[0].weight.fill_(float("inf"))
    """
    study = write_study(tmp_path, trials=10, model="Net2", before=before)
    kinds = [seed % 3 for seed in _seeds(study, 10)]
    assert set(kinds) == {0, 1, 2}
    code, errors = finish(start(study, lane))
    assert code == EXIT_DONE, errors
    results = read_results(study)
    assert (results.completed, results.failed) == (kinds.count(0), 10 - kinds.count(0))
    for kind, outcome in zip(kinds, read_outcomes(study, 10), strict=True):
        reason = ("", "fail: RuntimeError", "fail: its loss was")[kind]
        assert outcome.startswith(reason) if kind else float(outcome) > 0
    logs = [path.read_text() for path in (tmp_path / "tiny.hydro/trials").iterdir()]
    assert len(logs) == kinds.count(1)
    assert all("RuntimeError: this one cannot be built" in log for log in logs)


def _seeds(study: Path, count: int) -> list[int]:
    from hydro_hpc.study.trial import trial_seed

    return [trial_seed(load_study(study).seed, number) for number in range(count)]


@pytest.mark.usefixtures("primary")
def test_study_of_which_nothing_completed_has_failed(tmp_path: Path, lane: str) -> None:
    study = write_study(tmp_path, trials=3, loss="lambda o, t: o.sum() * float('nan')")
    process = start(study, lane)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_FAILED
    assert errors == "hydro-trial: the study is over, and no trial of it completed\n"
    assert "3 failed; trial 0: fail: its loss was nan in epoch 0, step 1" in output


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
def test_models_whose_shape_is_drawn_are_trained_or_are_one_sentence(
    tmp_path: Path, lane: str
) -> None:
    """A trial is grouped by its hyperparameters: one that comes later may not be what they say."""
    before = """
        def model():
            width = 4 + torch.initial_seed() % 5
            return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))
    """
    study = write_study(tmp_path, trials=12, model="model", before=before)
    code, errors = finish(start(study, lane))
    assert code in (EXIT_DONE, EXIT_FAILED)
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == (code == EXIT_FAILED)


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
