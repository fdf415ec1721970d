"""What a study asks for, per trial: the bundle gives each trial what it has alone, whatever F, the
slot, the neighbours, and however often it was stored and went on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hydro_hpc.errors import FusionError, StudyError
from hydro_hpc.study import Study, choice, uniform
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.training import BundleTraining, Ended
from tests.hydro_hpc.trial.open_lane import OpenLane, new_folder, train_trials, values

STEPS = 5  # per epoch, with the larger batches
OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": True},
        {"lr": 0.03, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.1, "nesterov": False},
        {"lr": 0.2, "momentum": 0.5, "dampening": 0.3, "weight_decay": 0.01, "nesterov": False},
    ],
    "adam": [
        {"lr": 0.1, "beta1": 0.9, "eps": 1e-8, "amsgrad": False, "weight_decay": 0.0},
        {"lr": 0.01, "beta1": 0.5, "eps": 1e-2, "amsgrad": True, "weight_decay": 0.1},
    ],
    "adamw": [
        {"lr": 0.1, "beta2": 0.9, "weight_decay": 0.0},
        {"lr": 0.01, "beta2": 0.99, "weight_decay": 0.3},
    ],
    "rmsprop": [
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-2, "weight_decay": 0.0, "momentum": 0.9,
         "centered": False},
        {"lr": 0.03, "alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.0,
         "centered": True},
        {"lr": 0.02, "alpha": 0.99, "eps": 1e-1, "weight_decay": 0.01, "momentum": 0.3,
         "centered": True},
    ],
    "adagrad": [
        {"lr": 0.1, "lr_decay": 0.0, "weight_decay": 0.0, "initial_accumulator_value": 0.0,
         "eps": 1e-3},
        {"lr": 0.3, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5,
         "eps": 1e-10},
        {"lr": 0.05, "lr_decay": 0.5, "weight_decay": 0.0, "initial_accumulator_value": 0.1,
         "eps": 1e-2},
    ],
}  # fmt: skip


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))


def data() -> tuple[torch.Tensor, ...]:
    x = torch.randn(STEPS * 8 + 40, 4, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    return x[:-40], y[:-40], x[-40:], y[-40:]


def noisy(x: torch.Tensor) -> torch.Tensor:
    """Draws from every generator that there is, in place."""
    x += 0.3 * torch.randn(x.shape)
    return x * torch.from_numpy(np.random.uniform(0.5, 1.5, (len(x), 1))).float()


def make_study(**changes: Any) -> Study:
    facts: dict[str, Any] = {
        "name": "asks",
        "model": net,
        "data": data,
        "loss": nn.CrossEntropyLoss(),
        "metrics": "loss",
        "space": {"lr": uniform(0.0, 1.0)},
        "optimizer": "sgd",
        "epochs": 2,
        "batch_size": 8,
    }
    return Study(**(facts | changes))


def trials_of(params: Sequence[dict[str, Any]]) -> list[Trial]:
    return [Trial(number=n, seed=40 + n, params=each) for n, each in enumerate(params)]


def alone(study: Study, trials: Sequence[Trial]) -> dict[int, float]:
    return {trial.number: study.run_alone(trial.params, trial.seed) for trial in trials}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trial_ends_with_the_value_that_it_has_alone(tmp_path: Path, name: str) -> None:
    space = {key: choice(value) for key, value in OPTIMIZERS[name][0].items()}
    study = make_study(optimizer=name, space=space)
    trials = trials_of(OPTIMIZERS[name])
    expected = alone(study, trials)
    assert len({round(value, 4) for value in expected.values()}) == len(trials)
    found = train_trials(
        study, new_folder(tmp_path, "whole"), OpenLane(tmp_path / "lane").gate(), trials
    )
    assert values(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["rmsprop", "adagrad"])
def test_optimizer_of_a_trial_that_was_stored_goes_on(tmp_path: Path, name: str) -> None:
    space = {key: choice(value) for key, value in OPTIMIZERS[name][0].items()}
    study, lane = make_study(optimizer=name, space=space), OpenLane(tmp_path / "lane")
    trials, folder = trials_of(OPTIMIZERS[name]), new_folder(tmp_path, "left")
    assert train_trials(study, folder, lane.gate(LaneGate.leave, at=150), trials) == []
    assert any(folder.checkpoints.iterdir())
    found = train_trials(study, folder, lane.gate(), trials)
    assert values(found) == pytest.approx(alone(study, trials), rel=1e-5)


CLIPS: dict[str, list[dict[str, Any]]] = {
    "clip_norm": [{"clip_norm": 0.05}, {"clip_norm": None}, {"clip_norm": 0.3}],
    "clip_value": [{"clip_value": 0.01}, {"clip_value": None}, {"clip_value": 0.05}],
}


@pytest.mark.parametrize("name", CLIPS)
def test_gradients_are_clipped_by_each_trials_own_limit(tmp_path: Path, name: str) -> None:
    space = {"lr": 0.5, name: choice(None, 0.01, 0.05, 0.3)}
    study, gate = make_study(space=space), OpenLane(tmp_path / "lane").gate()
    trials = [Trial(number=n, seed=7, params=each) for n, each in enumerate(CLIPS[name])]
    expected = alone(study, trials)
    assert len({round(value, 4) for value in expected.values()}) == len(trials)
    assert expected[1] == make_study().run_alone({"lr": 0.5}, 7)
    folder = new_folder(tmp_path, "whole")
    training = BundleTraining(study, folder, gate, trials[:2], unit_ns=10_000, report=None)
    ended: list[Ended] = []
    while training.has_work():
        ended += training.step()
    training.begin(trials[2])  # another limit in the slot
    while training.has_work():
        ended += training.step()
    assert values(ended) == pytest.approx(expected, rel=1e-5)


LEARNING_RATES = [{"lr": 0.1}, {"lr": 0.3}, {"lr": 0.03}]


def test_every_trial_has_batches_of_its_own_in_any_slot_of_any_bundle(tmp_path: Path) -> None:
    """Order and augmentation; alone, F = 1, 2 and 3, two orders, and stored in the middle."""
    study, lane = make_study(augment=noisy), OpenLane(tmp_path / "lane")
    trials = trials_of(LEARNING_RATES)
    expected = alone(study, trials)
    assert expected != pytest.approx(alone(make_study(), trials), rel=1e-3)
    for n, slots in enumerate(([0], [2, 0], [0, 1, 2], [2, 1, 0])):
        chosen = [trials[slot] for slot in slots]
        found = train_trials(study, new_folder(tmp_path, f"whole-{n}"), lane.gate(), chosen)
        assert values(found) == pytest.approx({s: expected[s] for s in slots}, rel=1e-5)
    for at in range(lane.num_looks // 5, lane.num_looks, lane.num_looks // 5):
        folder = new_folder(tmp_path, f"left-{at}")
        before = train_trials(study, folder, lane.gate(LaneGate.leave, at=at), trials)
        after = train_trials(study, folder, lane.gate(), list(reversed(trials)))
        assert values(before) | values(after) == pytest.approx(expected, rel=1e-5), at


def test_two_trials_of_one_seed_draw_the_same_and_of_another_do_not() -> None:
    study, x = make_study(augment=noisy), torch.ones(8, 4)
    first = study.inputs(x.clone(), 3, 5)
    torch.rand(7)
    assert torch.equal(study.inputs(x.clone(), 3, 5), first)
    assert not torch.equal(study.inputs(x.clone(), 4, 5), first)
    assert not torch.equal(study.inputs(x.clone(), 3, 6), first)


@pytest.mark.parametrize("size", [4, 8])
def test_batch_size_of_the_space_is_the_trials(tmp_path: Path, size: int) -> None:
    space = {"lr": uniform(0.0, 1.0), "batch_size": choice(4, 8)}
    study = make_study(space=space, batch_size=None)
    trials = trials_of([{**params, "batch_size": size} for params in LEARNING_RATES])
    gate = OpenLane(tmp_path / "lane").gate()
    found = train_trials(study, new_folder(tmp_path, "whole"), gate, trials)
    assert values(found) == pytest.approx(alone(make_study(batch_size=size), trials), rel=1e-5)


def test_trial_of_another_batch_size_cannot_join(tmp_path: Path) -> None:
    study = make_study(space={"lr": 0.1, "batch_size": choice(4, 8)}, batch_size=None)
    trials = trials_of([{"batch_size": 8}, {"batch_size": 8}, {"batch_size": 4}])
    gate, folder = OpenLane(tmp_path / "lane").gate(), new_folder(tmp_path, "whole")
    sentence = "trial 2 has batches of 4 rows, the trials beside it of 8; bundle only"
    with pytest.raises(FusionError, match=sentence):
        BundleTraining(study, folder, gate, trials, unit_ns=10_000, report=None)
    training = BundleTraining(study, folder, gate, trials[:2], unit_ns=10_000, report=None)
    training.give_up(1)
    with pytest.raises(FusionError, match=sentence):
        training.begin(trials[2])


def test_augment_that_raises_fails_its_trial_and_touches_no_other(tmp_path: Path) -> None:
    def sometimes(x: torch.Tensor) -> torch.Tensor:
        if torch.rand(()) < 0.1:
            raise ValueError("what a batch")
        return x

    study, trials = make_study(augment=sometimes, epochs=1), trials_of([{"lr": 0.1}] * 6)
    folder = new_folder(tmp_path, "raises")
    folder.trials.mkdir()
    ended = train_trials(study, folder, OpenLane(tmp_path / "lane").gate(), trials)
    failed = {end.number for end in ended if end.state == "failed"}
    assert 0 < len(failed) < len(trials)
    for end in ended:
        trial = trials[end.number]
        if end.number in failed:
            assert "ValueError: what a batch" in end.reason
            with pytest.raises(ValueError, match="what a batch"):
                study.run_alone(trial.params, trial.seed)
        else:
            expected = study.run_alone(trial.params, trial.seed)
            assert end.value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("augment", "sentence"),
    [
        (lambda x: x[:, :2], r"augment made \[8, 2\] float32 of \[8, 4\] float32; it must keep"),
        (lambda x: x.double(), r"augment made \[8, 4\] float64 of \[8, 4\] float32"),
        (lambda _: None, "augment returned a NoneType; return a tensor"),
        (lambda x: x.nothing, "augment raised AttributeError with"),
    ],
)
def test_augment_that_cannot_be_is_one_sentence(augment: Any, sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence):
        make_study(augment=augment).check()


def test_check_leaves_the_data_as_it_is() -> None:
    study = make_study(augment=noisy)
    before = study.data().train_x.clone()
    study.check()
    study.run_alone({"lr": 0.1}, 1)
    assert torch.equal(study.data().train_x, before)


class LooksAtItsBatch(nn.Module):
    """What it says of a row depends on the others that come with it, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(8, track_running_stats=False)
        self.layers = nn.Sequential(nn.Linear(4, 8, bias=False), norm, nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


class Draws(LooksAtItsBatch):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.3 * torch.randn_like(x))


def noisy_metric(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    noise = 0.1 * torch.randn_like(outputs) + float(np.random.uniform())
    return nn.functional.cross_entropy(outputs + noise * outputs, targets).item()


def data_of(num_test: int) -> tuple[torch.Tensor, ...]:
    x = torch.randn(STEPS * 8 + num_test, 4, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    return x[:-num_test], y[:-num_test], x[-num_test:], y[-num_test:]


@pytest.mark.parametrize("num_test", [129, 300])
@pytest.mark.parametrize("metric", ["loss", noisy_metric])
@pytest.mark.parametrize("model", [LooksAtItsBatch, Draws])
def test_evaluation_is_the_same_in_a_bundle_and_alone(
    tmp_path: Path, model: Any, metric: Any, num_test: int
) -> None:
    study = make_study(model=model, metrics=metric, data=lambda: data_of(num_test))
    trials = trials_of(LEARNING_RATES)
    gate, folder = OpenLane(tmp_path / "lane").gate(), new_folder(tmp_path, "whole")
    folder.trials.mkdir()
    found = train_trials(study, folder, gate, trials)
    assert values(found) == pytest.approx(alone(study, trials), rel=1e-5)


def loss_by_torch(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs + 0.5 * torch.randn_like(outputs), targets)


def loss_by_numpy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    noise = torch.from_numpy(np.random.normal(size=outputs.shape)).float()
    return loss_by_torch(outputs + 0.5 * noise, targets)


def loss_by_dropout(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(nn.functional.dropout(outputs, 0.3), targets)


@pytest.mark.parametrize("loss", [loss_by_torch, loss_by_numpy, loss_by_dropout])
def test_what_a_loss_draws_is_the_trials_own(tmp_path: Path, loss: Any) -> None:
    study = make_study(loss=loss, metrics=noisy_metric)
    lane, trials = OpenLane(tmp_path / "lane"), trials_of(LEARNING_RATES)
    expected = alone(study, trials)
    torch.manual_seed(3)
    np.random.seed(3)
    for n, slots in enumerate(([1], [2, 0, 1])):
        chosen = [trials[slot] for slot in slots]
        found = train_trials(study, new_folder(tmp_path, f"whole-{n}"), lane.gate(), chosen)
        assert values(found) == pytest.approx({s: expected[s] for s in slots}, rel=1e-5)
    folder = new_folder(tmp_path, "left")
    assert train_trials(study, folder, lane.gate(LaneGate.leave, at=90), trials) == []
    after = train_trials(study, folder, lane.gate(), list(reversed(trials)))
    assert values(after) == pytest.approx(expected, rel=1e-5)


def test_trials_whose_loss_draws_are_fused(tmp_path: Path) -> None:
    study, trials = make_study(loss=loss_by_numpy), trials_of(LEARNING_RATES)
    gate, folder = OpenLane(tmp_path / "lane").gate(), new_folder(tmp_path, "whole")
    training = BundleTraining(study, folder, gate, trials, unit_ns=10_000, report=None)
    [path] = folder.choices.iterdir()
    assert '"grouped"' in path.read_text()
    assert "twice" not in training.why_not_fused


def test_augment_may_be_made_of_modules(tmp_path: Path) -> None:
    study, trials = make_study(augment=nn.Linear(4, 4)), trials_of(LEARNING_RATES)
    gate, folder = OpenLane(tmp_path / "lane").gate(), new_folder(tmp_path, "whole")
    found = train_trials(study, folder, gate, trials)
    assert values(found) == pytest.approx(alone(study, trials), rel=1e-5)
