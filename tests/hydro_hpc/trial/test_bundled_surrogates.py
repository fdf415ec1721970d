"""Bundles of surrogates: each trial ends with the value that it has alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from hydro_hpc.study import Study, choice, uniform
from hydro_hpc.study.trial import Trial
from hydro_hpc.surrogate import Narrow
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.grouping import Grouping
from hydro_hpc.trial.training import BundleTraining
from tests.hydro_hpc.trial.open_lane import OpenLane, new_folder, train_trials, values
from tests.hydro_hpc.trial.test_bundled_trials import alone, make_study, trials_of


class Net(nn.Module):
    def __init__(self, width: int = 48, ratio: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, ratio * width))
        self.head = nn.Linear(ratio * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).tanh())
        return logits


def surrogates(**changes: Any) -> Study:
    return make_study(model=Net, surrogate=Narrow(by=6), **changes)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("lrs", [(0.02, 0.05, 0.01), (0.02, 0.02, 0.02)], ids=["own", "equal"])
def test_trial_ends_with_the_value_that_it_has_alone(
    tmp_path: Path, name: str, lrs: tuple[float, ...]
) -> None:
    study = surrogates(optimizer=name, space={"lr": uniform(0.0, 1.0), "weight_decay": 0.1})
    trials = trials_of([{"lr": lr} for lr in lrs])
    expected = alone(study, trials)
    plain = make_study(
        model=lambda: Net(8), optimizer=name, space={"lr": uniform(0.0, 1.0), "weight_decay": 0.1}
    )
    assert expected != pytest.approx(alone(plain, trials), rel=1e-3)
    folder, gate = new_folder(tmp_path, "whole"), OpenLane(tmp_path / "lane").gate()
    assert values(train_trials(study, folder, gate, trials)) == pytest.approx(expected, rel=1e-5)


def test_a_surrogate_that_was_stored_goes_on_and_the_next_takes_its_slot(tmp_path: Path) -> None:
    study, lane = surrogates(optimizer="adamw"), OpenLane(tmp_path / "lane")
    trials = trials_of([{"lr": 0.02}, {"lr": 0.05}, {"lr": 0.01}])
    expected, folder = alone(study, trials), new_folder(tmp_path, "left")
    assert train_trials(study, folder, lane.gate(LaneGate.leave, at=150), trials[:2]) == []
    training = BundleTraining(study, folder, lane.gate(), trials[:2], unit_ns=10_000, report=None)
    ended = []
    while training.has_work():
        ended += training.step()
    training.begin(trials[2])
    while training.has_work():
        ended += training.step()
    assert values(ended) == pytest.approx(expected, rel=1e-5)


def test_surrogates_are_fused_as_their_models_are(tmp_path: Path) -> None:
    trials = trials_of([{"lr": 0.02}, {"lr": 0.05}])
    found = []
    for number, study in enumerate((surrogates(), make_study(model=lambda: Net(8)))):
        folder, gate = new_folder(tmp_path, f"{number}"), OpenLane(tmp_path / f"l{number}").gate()
        BundleTraining(study, folder, gate, trials, unit_ns=10_000, report=None)
        [path] = folder.choices.iterdir()
        choice_made = json.loads(path.read_text())
        found.append({one["name"]: one["refusal"] for one in choice_made["candidates"]})
    assert found[0] == found[1]
    assert found[0]["grouped"] is None
    assert found[0]["vmap"] is None


def rounded(width: int = 48, step: int = 8) -> nn.Module:
    size = -(-width // step) * step
    sizes = ((4, width), (width, size), (size, width), (width, 2))
    return nn.Sequential(*(nn.Linear(*each) for each in sizes))


def test_trials_of_other_rules_are_of_another_group() -> None:
    """Though their narrow models are alike: the targets' middle sizes are 48 and 60."""
    space = {"lr": 0.1, "step": choice(2, 4, 20)}
    study = make_study(model=rounded, surrogate=Narrow(width=20), space=space)
    grouping = Grouping(study)
    group = {s: grouping.of(Trial(number=s, seed=s, params={"step": s})) for s in (2, 4, 20)}
    assert group[2] == group[4] != group[20]
