from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.demo.best_trial import best_trial
from hydro_hpc.errors import StudyError
from hydro_hpc.study import load_study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Search

STUDY = """
import torch
from torch import nn
from hydro_hpc.study import Study, log_uniform

def data():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(96, 4, generator=g)
    return x[:64], (x[:64].sum(1) > 0).long(), x[64:], (x[64:].sum(1) > 0).long()

study = Study(name="tiny", model=lambda: nn.Linear(4, 2), data=data, loss=nn.CrossEntropyLoss(),
              space={"lr": log_uniform(1e-4, 1e-1)}, epochs=2, batch_size=16, trials=3)
if __name__ == "__main__":
    study.run()
"""


def test_the_best_trial_alone_has_its_value(tmp_path: Path) -> None:
    file = tmp_path / "study.py"
    file.write_text(STUDY)
    load_study(file).run(tmp_path)
    found = best_trial(file, tmp_path)
    assert found["completed"] == 3
    best = found["best"]
    assert isinstance(best, dict)
    assert found["rerun_value"] == best["value"]


def test_a_study_without_a_completed_trial_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "study.py"
    file.write_text(STUDY)
    study = load_study(file)
    Search(study.description, StudyFolder(tmp_path, study.name)).close()
    with pytest.raises(StudyError, match="no trial completed"):
        best_trial(file, tmp_path)
