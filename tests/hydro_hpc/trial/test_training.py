"""Training a bundle through a real gate whose lane is always open: what leaving in the middle, at
whatever place, does to the trials. The oracle is each trial alone, in ordinary torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from hydro_hpc.errors import LaneError
from hydro_hpc.fusion import choice
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind, Word
from hydro_hpc.study import Study, uniform
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import LaneGate, LeaveRequested
from hydro_hpc.trial.training import BundleTraining, Ended
from tests.hydro_hpc.lanes import make_lane, set_site_word, stage_page

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


class OpenLane:
    """A lane whose window never ends, until `then` is called at the gate's look number `at` at
    the clock: every place where a worker can be interrupted has such a look.
    """

    def __init__(self, folder: Path) -> None:
        self.lane = make_lane(folder)
        self.primary = stage_page(self.lane)
        for word in ("guard_word", "owner_word"):
            self.primary.set(word, Word.RUN)
        self.primary.words[self.primary.word_index("window_us")] = 2**32 - 1
        self.primary.set("open_ns", time.monotonic_ns())
        self.primary.set("gate_word", 1 << 8 | GATE_OPEN)
        self.num_looks = 0
        self.slept_ns = 0

    def wait_change(self, seen: int, timeout_s: float) -> None:
        """The waiter: nobody wakes it, since the gate word never changes; only the clock moves."""
        assert seen == self.primary.get("gate_word")
        self.slept_ns += int(timeout_s * 1e9) + 1

    def gate(self, then: Callable[[LaneGate], None] | None = None, *, at: int = -1) -> LaneGate:
        self.num_looks = 0

        def now_ns() -> int:
            self.num_looks += 1
            if then is not None and self.num_looks == at:
                then(gate)
            return time.monotonic_ns() + self.slept_ns

        gate = LaneGate(
            stage=Page.map_for_reading(page_path(self.lane, PageKind.STAGE), PageKind.STAGE),
            site=Page.map_for_reading(page_path(self.lane, PageKind.SITE), PageKind.SITE),
            waiter=self,
            trial=None,
            margin_ns=0,
            now_ns=now_ns,
        )
        return gate


def new_folder(parent: Path, name: str) -> StudyFolder:
    folder = StudyFolder(parent, name)
    folder.checkpoints.mkdir(parents=True)
    return folder


def train(
    study: Study, folder: StudyFolder, gate: LaneGate, trials: Sequence[Trial] = TRIALS
) -> list[Ended]:
    """Trains what is stored, or from the start, until all trials have ended or the gang leaves."""
    training = BundleTraining(study, folder, gate, trials, unit_ns=10_000, report=None)
    ended: list[Ended] = []
    try:
        while training.has_work():
            ended += training.step()
    except (LeaveRequested, LaneError):
        training.checkpoint()
    return ended


def values(ended: list[Ended]) -> dict[int, float | None]:
    return {end.number: end.value for end in ended}


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
