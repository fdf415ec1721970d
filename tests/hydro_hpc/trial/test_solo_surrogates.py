"""`hydro-trial` as a real process with a study of surrogates."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_DONE, EXIT_USAGE
from hydro_hpc.report.explain import recorded_choices
from hydro_hpc.study import load_study
from hydro_hpc.study.trial import trial_seed
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import finish, read_results, start

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

WIDE = """
    from hydro_hpc.surrogate import Narrow

    class Wide(Net):
        def __init__(self, width=64):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                nn.Linear(width, 2),
            )
"""


def write_narrow_study(directory: Path, *, trials: int = 5, default: int = 64) -> Path:
    before = WIDE.replace("width=64", f"width={default}")
    path = write_study(directory, trials=trials, model="Wide", before=before)
    narrow = "surrogate=Narrow(width=16, target_epochs=90), slots=4"
    path.write_text(path.read_text().replace("slots=4", narrow))
    return path


def write_followed_study(directory: Path, *, inner: int = 32) -> Path:
    """Of a model without an argument for its width."""
    before = f"""
    from hydro_hpc.surrogate import Narrow

    class Plain(Net):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(8, 16), nn.Tanh(),
                nn.Linear(16, {inner}), nn.Tanh(), nn.Linear({inner}, 2),
            )
    """
    path = write_study(directory, trials=5, model="Plain", before=before)
    narrow = 'surrogate=Narrow(by=4, keep=("layers.0",)), slots=4'
    path.write_text(path.read_text().replace("slots=4", narrow))
    return path


@pytest.mark.usefixtures("primary")
def test_trials_are_surrogates_of_a_model_that_is_followed(tmp_path: Path, lane: str) -> None:
    study = write_followed_study(tmp_path)
    process = start(study, lane)
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (EXIT_DONE, "")
    assert "surrogates of 1/4 of the target's widths (layers.0 kept)" in said
    best, loaded = read_results(study).best, load_study(study)
    assert best is not None
    assert loaded.run_alone(best.params, best.seed) == pytest.approx(best.value, rel=1e-3)
    largest, *_ = recorded_choices(tmp_path / "tiny.hydro")
    assert largest["slots"] == 4
    assert largest["executor"] != "loop"
    code, errors = finish(start(write_followed_study(tmp_path, inner=64), lane))
    assert code == EXIT_USAGE
    assert "the model is another than when the rules in " in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.usefixtures("primary")
def test_trials_are_surrogates_and_a_changed_target_is_refused(tmp_path: Path, lane: str) -> None:
    study = write_narrow_study(tmp_path)
    process = start(study, lane)
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (EXIT_DONE, "")
    assert "hydro-trial: trials train surrogates of width 16 of 64 for 3 epochs" in said
    assert "hydro-trial: surrogates train for another horizon" in said
    best, loaded = read_results(study).best, load_study(study)
    assert best is not None
    assert best.seed == trial_seed(loaded.seed, best.number)
    assert loaded.run_alone(best.params, best.seed) == pytest.approx(best.value, rel=1e-3)
    assert len(list((tmp_path / "tiny.hydro/rules").iterdir())) == 1
    changed = write_narrow_study(tmp_path, trials=9, default=128)
    code, errors = finish(start(changed, lane))
    assert code == EXIT_USAGE
    assert "the model is another than when the rules in " in errors
    assert len(errors.splitlines()) == 1
