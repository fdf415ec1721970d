"""Training a bundle through a real gate whose lane is always open: what leaving in the middle, at
whatever place, does to the trials. The oracle is each trial alone, in ordinary torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from hydro_hpc.fusion import choice
from hydro_hpc.page_layout import Word
from hydro_hpc.study import Study, uniform
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.training import BundleTraining, Ended
from tests.hydro_hpc.lanes import set_site_word
from tests.hydro_hpc.trial.open_lane import OpenLane, new_folder, train_trials, values

TRIALS = [
    Trial(number=number, seed=number, params={"lr": 0.1 / (number + 1), "size": 1.0 - number})
    for number in (0, 1)
]
STEPS = 4  # per epoch
EPOCHS = 2


class Net(nn.Module):
    """Has everything that half a step would leave behind: buffers, random numbers, momentum."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Linear(4, 8, bias=False),  # with one, Adam would follow its gradient's rounding
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Linear(8, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def make_study(
    model: Callable[..., nn.Module] = Net,
    loss: Callable[..., torch.Tensor] = nn.CrossEntropyLoss(),  # noqa: B008
) -> Study:
    def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        x = torch.randn(STEPS * 8 + 40, 4, generator=torch.Generator().manual_seed(1))
        y = (x.sum(1) > 0).long()
        return x[:-40], y[:-40], x[-40:], y[-40:]

    return Study(
        name="leaves",
        model=model,
        data=data,
        loss=loss,
        metrics="loss",
        space={"lr": uniform(0.01, 0.1), "size": uniform(0.0, 1.0)},
        optimizer="adam",
        epochs=EPOCHS,
        batch_size=8,
        trials=2,
    )


@pytest.fixture(autouse=True)
def grouped_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots of a small model can be as fast by the loop, which rounds another way: results are
    compared bit by bit here, so a measurement must not choose.
    """
    monkeypatch.setattr(choice, "step_times_ms", lambda makers, *_: [*range(len(makers))])


def train(
    study: Study, folder: StudyFolder, gate: LaneGate, trials: Sequence[Trial] = TRIALS
) -> list[Ended]:
    return train_trials(study, folder, gate, trials)


def test_leaving_at_any_place_changes_no_trial(tmp_path: Path) -> None:
    study, lane = make_study(), OpenLane(tmp_path / "lane")
    alone = {trial.number: study.run_alone(trial.params, seed=trial.seed) for trial in TRIALS}
    whole = values(train(study, new_folder(tmp_path, "whole"), lane.gate()))
    assert whole == pytest.approx(alone, rel=1e-5)
    num_looks = lane.num_looks
    assert num_looks > 100
    num_cut = 0
    for leave_at in range(1, num_looks, 29):
        folder = new_folder(tmp_path, f"left-{leave_at}")
        before = train(study, folder, lane.gate(LaneGate.leave, at=leave_at))
        num_cut += len(before) < len(TRIALS) and any(folder.checkpoints.iterdir())
        after = train(study, folder, lane.gate())
        assert values(after) == whole, f"left at look {leave_at}"
    assert num_cut > num_looks / 58


def test_lane_that_goes_in_mid_step_changes_no_trial(tmp_path: Path) -> None:
    study, lane = make_study(), OpenLane(tmp_path / "lane")
    whole = values(train(study, new_folder(tmp_path, "whole"), lane.gate()))
    for at in range(lane.num_looks // 3, lane.num_looks // 3 + 12):
        folder = new_folder(tmp_path, f"gone-{at}")
        train(study, folder, lane.gate(lambda _: set_site_word(lane.lane, Word.GONE), at=at))
        assert len(list(folder.checkpoints.iterdir())) == len(TRIALS)
        set_site_word(lane.lane, Word.RUN)
        after = train(study, folder, lane.gate())
        assert values(after) == whole, f"gone at look {at}"


def test_trial_that_is_parked_and_goes_on_in_another_bundle_does_not_change(tmp_path: Path) -> None:
    study, lane = make_study(), OpenLane(tmp_path / "lane")
    whole = values(train(study, new_folder(tmp_path, "whole"), lane.gate()))
    num_looks = lane.num_looks
    for at in range(num_looks // 9, num_looks, num_looks // 4):
        folder = new_folder(tmp_path, f"shrunk-{at}")
        assert train(study, folder, lane.gate(LaneGate.leave, at=at)) == []
        kept = train(study, folder, lane.gate(), TRIALS[:1])
        parked = train(study, folder, lane.gate(), TRIALS[1:])
        after = values(kept) | values(parked)  # another size rounds sums another way
        assert after == pytest.approx(whole, rel=1e-5), f"shrunk at look {at}"


def test_all_is_stored_before_the_first_window(tmp_path: Path) -> None:
    """The first checkpoint loads what a window has no time for."""
    folder = new_folder(tmp_path, "first")
    gate = OpenLane(tmp_path / "lane").gate()
    BundleTraining(make_study(), folder, gate, TRIALS, unit_ns=10_000, report=None)
    assert {path.name for path in folder.checkpoints.iterdir()} == {"0.pt", "1.pt"}


class RaisesInEvaluation(nn.Module):
    """Trains, but the larger one cannot be evaluated."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and self.size > 0.5:
            raise RuntimeError("no evaluation")
        out: torch.Tensor = self.layer(x)
        return out


def test_trial_that_raises_in_evaluation_has_failed(tmp_path: Path) -> None:
    study, lane = make_study(RaisesInEvaluation), OpenLane(tmp_path / "lane")
    folder = new_folder(tmp_path, "eval")
    folder.trials.mkdir()
    ended = {end.number: end for end in train(study, folder, lane.gate())}
    assert (ended[0].state, ended[0].value) == ("failed", None)
    assert "RuntimeError: no evaluation" in ended[0].reason
    assert ended[1].value == pytest.approx(study.run_alone(TRIALS[1].params, seed=1), rel=1e-5)


def test_study_whose_every_trial_raises_in_evaluation_goes_on(tmp_path: Path) -> None:
    class AllRaise(RaisesInEvaluation):
        def __init__(self, size: float) -> None:
            super().__init__(size + 1.0)

    folder = new_folder(tmp_path, "all")
    folder.trials.mkdir()
    ended = train(make_study(AllRaise), folder, OpenLane(tmp_path / "lane").gate())
    assert [end.state for end in ended] == ["failed", "failed"]


@pytest.mark.parametrize("num_bad", [1, 2])
def test_loss_that_raises_fails_its_trial_and_touches_no_other(
    tmp_path: Path, num_bad: int
) -> None:
    """With dropout and batch norm: who makes a step twice draws twice, and counts a batch twice."""

    class Loud(Net):
        def __init__(self, size: float) -> None:
            super().__init__(size)
            if size >= TRIALS[num_bad - 1].params["size"]:
                nn.init.constant_(self.layers[-1].bias, 100.0)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if float(outputs.detach().max()) > 50.0:
            raise ValueError("too big")
        return nn.functional.cross_entropy(outputs, targets)

    study = make_study(Loud, loss)
    folder = new_folder(tmp_path, "loss")
    folder.trials.mkdir()
    ended = {end.number: end for end in train(study, folder, OpenLane(tmp_path / "lane").gate())}
    for number in range(num_bad):
        assert ended[number].state == "failed"
        assert "ValueError: too big" in ended[number].reason
    for trial in TRIALS[num_bad:]:
        alone = study.run_alone(trial.params, seed=trial.seed)
        assert ended[trial.number].value == pytest.approx(alone, rel=1e-5)
