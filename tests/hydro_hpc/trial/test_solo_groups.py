"""`hydro-trial` as a real process with a study whose trials cannot all be in one bundle."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hydro_hpc.errors import EXIT_DONE, EXIT_TRY_LATER
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.report.explain import recorded_choices
from hydro_hpc.study import load_study
from hydro_hpc.study.trial import trial_seed
from tests.hydro_hpc.lanes import set_site_word
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import finish, read_outcomes, start, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

SHAPES = """
    from hydro_hpc.study import choice

    class Sized(Net):
        def __init__(self, width):
            super().__init__()
            if width == REFUSED:
                raise ValueError("not this one")
            self.layers = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 2))
"""


def write_mixed_study(directory: Path, *, trials: int, epochs: int, refused: int = 0) -> Path:
    before = SHAPES.replace("REFUSED", str(refused))
    path = write_study(directory, trials=trials, epochs=epochs, model="Sized", before=before)
    text = path.read_text().replace('"adam"', '"adagrad"')
    text = text.replace('"lr":', '"width": choice(4, 8), "batch_size": choice(16, 32), "lr":')
    path.write_text(text.replace("batch_size=32, ", ""))
    return path


def require_values_as_alone(study: Path, count: int) -> None:
    loaded = load_study(study)
    journal = JournalStorage(JournalFileBackend(str(study.parent / "tiny.hydro/journal.log")))
    trials = optuna.load_study(study_name="tiny", storage=journal).trials
    assert [trial.number for trial in trials] == list(range(count))
    assert len({(t.params["width"], t.params["batch_size"]) for t in trials}) == 4
    for trial in trials:
        alone = loaded.run_alone(trial.params, trial_seed(loaded.seed, trial.number))
        assert trial.value == pytest.approx(alone, rel=1e-3)


@pytest.mark.usefixtures("primary")
def test_trials_of_every_shape_end_with_the_value_they_have_alone(
    tmp_path: Path, lane: str
) -> None:
    study = write_mixed_study(tmp_path, trials=14, epochs=3)
    assert finish(start(study, lane)) == (EXIT_DONE, "")
    require_values_as_alone(study, 14)
    bundles = recorded_choices(tmp_path / "tiny.hydro")
    assert max(bundle["slots"] for bundle in bundles) > 1


@pytest.mark.usefixtures("primary")
def test_lane_that_goes_away_loses_no_trial_of_any_shape(tmp_path: Path, lane: str) -> None:
    study = write_mixed_study(tmp_path, trials=10, epochs=20)
    process = start(study, lane)
    page = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    wait_until(lambda: page.get("trials_done") > 2)
    set_site_word(lane, Word.GONE)
    process.terminate()
    assert finish(process)[0] == EXIT_TRY_LATER
    set_site_word(lane, Word.RUN)
    assert finish(start(study, lane)) == (EXIT_DONE, "")
    require_values_as_alone(study, 10)


@pytest.mark.usefixtures("primary")
def test_models_that_cannot_be_made_fail_and_the_others_complete(tmp_path: Path, lane: str) -> None:
    study = write_mixed_study(tmp_path, trials=10, epochs=2, refused=8)
    assert finish(start(study, lane)) == (EXIT_DONE, "")
    loaded = load_study(study)
    outcomes = read_outcomes(study, 10)
    failed = [outcome for outcome in outcomes if "ValueError: not this one" in outcome]
    assert 0 < len(failed) < 10
    assert all(float(outcome) > 0.0 for outcome in outcomes if outcome not in failed)
    assert loaded.batch_sizes == (16, 32)
