from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hydro_hpc.study import load_study

STUDY = Path(__file__).parents[2] / "examples" / "digits" / "study.py"


@pytest.fixture(autouse=True)
def needs_scikit_learn() -> None:
    pytest.importorskip("sklearn")


def test_the_digits_study_is_sound_and_its_data_always_the_same() -> None:
    study, again = load_study(STUDY), load_study(STUDY)
    study.check()
    data = study.data()
    assert data.train_x.shape == (1437, 64)
    assert data.test_x.shape == (360, 64)
    assert data.train_x.dtype == torch.float32
    assert torch.equal(data.train_x, again.data().train_x)
    assert torch.equal(data.test_y, again.data().test_y)


def test_a_good_trial_reaches_95_percent() -> None:
    study = load_study(STUDY)
    params = {"lr": 3e-3, "weight_decay": 1e-5, "beta1": 0.9}
    assert study.run_alone(params, seed=0) >= 0.95
