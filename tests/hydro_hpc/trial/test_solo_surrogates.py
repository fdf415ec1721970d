"""`hydro-trial` as a real process with a study of surrogates."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_DONE, EXIT_USAGE
from hydro_hpc.report.explain import recorded_choices
from hydro_hpc.study import Study, load_study
from hydro_hpc.study.trial import trial_seed
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import PlayedPrimary, finish, read_results, start

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


def write_narrow_study(
    directory: Path, *, trials: int = 5, default: int = 64, width: int = 16
) -> Path:
    before = WIDE.replace("width=64", f"width={default}")
    path = write_study(directory, trials=trials, model="Wide", before=before)
    narrow = f"surrogate=Narrow(width={width}, target_epochs=90), slots=4"
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


def write_followed_study_of_many_shapes(directory: Path) -> Path:
    """Its inner width is searched: most trials bring a model that was not followed before."""
    before = """
    from hydro_hpc.study import integer
    from hydro_hpc.surrogate import Narrow

    class Plain(Net):
        def __init__(self, inner, depth=2):
            super().__init__()
            hidden = [layer for _ in range(depth) for layer in (nn.Linear(inner, inner), nn.Tanh())]
            self.layers = nn.Sequential(nn.Linear(8, inner), *hidden, nn.Linear(inner, 2))
    """
    path = write_study(directory, trials=8, epochs=1, model="Plain", before=before)
    text = path.read_text().replace("slots=4", "surrogate=Narrow(by=4), slots=1")
    path.write_text(text.replace('"lr":', '"inner": integer(16, 48), "lr":'))
    return path


def run(study: Path, lane: str, **settings: str) -> str:
    """Runs a study to its end, without a word of complaint. Returns what it said."""
    process = start(study, lane, **settings)
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (EXIT_DONE, "")
    return said


def require_best_as_alone(study: Path) -> Study:
    best, loaded = read_results(study).best, load_study(study)
    assert best is not None
    assert best.seed == trial_seed(loaded.seed, best.number)
    assert loaded.run_alone(best.params, best.seed) == pytest.approx(best.value, rel=1e-3)
    return loaded


def require_refused_as_changed(study: Path, lane: str) -> None:
    code, errors = finish(start(study, lane))
    assert code == EXIT_USAGE
    assert "the model is another than when the rules in " in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.usefixtures("primary")
def test_trials_are_surrogates_of_a_model_that_is_followed(tmp_path: Path, lane: str) -> None:
    study = write_followed_study(tmp_path)
    assert "surrogates of 1/4 of the target's widths (layers.0 kept)" in run(study, lane)
    require_best_as_alone(study)
    largest, *_ = recorded_choices(tmp_path / "tiny.hydro")
    assert largest["slots"] == 4
    assert largest["executor"] != "loop"
    require_refused_as_changed(write_followed_study(tmp_path, inner=64), lane)


@pytest.mark.usefixtures("primary")
def test_trials_are_surrogates_and_a_changed_target_is_refused(tmp_path: Path, lane: str) -> None:
    study = write_narrow_study(tmp_path)
    said = run(study, lane)
    assert "hydro-trial: trials train surrogates of width 16 of 64 for 3 epochs" in said
    assert "hydro-trial: surrogates train for another horizon" in said
    require_best_as_alone(study)
    assert len(list((tmp_path / "tiny.hydro/rules").iterdir())) == 1
    require_refused_as_changed(write_narrow_study(tmp_path, trials=9, default=128), lane)


def test_models_are_followed_outside_windows(tmp_path: Path, lane: str) -> None:
    """Which takes longer than many windows: done in one, the worker would be ended for it."""
    study = write_followed_study_of_many_shapes(tmp_path)
    primary = PlayedPrimary(lane, open_s=0.020, shut_s=0.030)
    try:
        run(study, lane, HYDRO_GRACE_MS="10")
    finally:
        primary.stop()
    assert read_results(study).completed == require_best_as_alone(study).trials
