from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from hydro_hpc import Study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.space import choice, log_uniform

MakeStudy = Callable[..., Study]


def test_run_completes_every_trial_and_its_best_can_be_repeated(
    small_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small_study()
    results = study.run(tmp_path)
    assert (results.completed, results.failed) == (5, 0)
    best = results.best
    assert best is not None
    assert study.run_alone(best.params, best.seed) == best.value
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[-1].startswith("study small: 5 completed, 0 pruned, 0 failed; best is trial ")


def test_a_finished_study_is_not_run_again_and_more_trials_go_on(
    small_study: MakeStudy, tmp_path: Path
) -> None:
    small_study().run(tmp_path)
    calls: list[int] = []

    def counting(width: int) -> nn.Module:
        calls.append(width)
        return Fragile(width)

    small_study(model=counting).run(tmp_path)
    assert len(calls) == 1  # the check
    assert small_study(trials=7).run(tmp_path).completed == 7


class Fragile(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.width == 5:
            raise RuntimeError("five is too many")
        logits: Tensor = self.layers(x)
        return logits


def test_an_exception_in_one_trial_fails_that_trial_with_its_traceback(
    small_study: MakeStudy, tmp_path: Path
) -> None:
    space = {"lr": log_uniform(1e-3, 1e-1), "width": choice(4, 5)}
    results = small_study(model=Fragile, space=space, trials=12).run(tmp_path)
    assert results.completed > 0
    assert results.failed > 0
    assert results.completed + results.failed == 12
    logs = list(StudyFolder(tmp_path, "small").trials.iterdir())
    assert len(logs) == results.failed
    assert all("RuntimeError: five is too many" in log.read_text() for log in logs)


def test_a_diverged_trial_fails_and_the_study_goes_on(
    small_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def explodes(outputs: Any, targets: Tensor) -> Tensor:
        loss: Tensor = nn.functional.cross_entropy(outputs, targets) * float("inf")
        return loss

    results = small_study(loss=explodes, trials=2).run(tmp_path)
    assert (results.completed, results.failed) == (0, 2)
    output = capsys.readouterr().out
    assert "trial 0: fail: its loss was not finite in epoch 0" in output
    assert output.endswith("0 completed, 0 pruned, 2 failed; no trial completed\n")


def test_a_study_with_a_pruner_prunes(small_study: MakeStudy, tmp_path: Path) -> None:
    space = {"lr": log_uniform(1e-6, 1e-1), "width": 8}
    results = small_study(space=space, pruner="median", epochs=6, trials=20).run(tmp_path)
    assert results.pruned > 0
    assert results.completed + results.pruned == 20
