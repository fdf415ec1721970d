"""Training a bundle through a real gate whose lane is always open: what leaving in the middle, at
whatever place, does to the trials. The oracle is each trial alone, in ordinary torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hydro_hpc.errors import LaneError
from hydro_hpc.page import GATE_OPEN, Page, PageKind, Word, page_path
from hydro_hpc.study import Study, uniform
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import LaneGate, LeaveRequested
from hydro_hpc.trial.training import BundleTraining, Ended
from tests.hydro_hpc.lanes import make_lane, set_site_word, stage_page

TRIALS = [Trial(number=number, seed=number, params={"lr": 0.1 / (number + 1)}) for number in (0, 1)]
STEPS = 4  # per epoch
EPOCHS = 2


class Net(nn.Module):
    """Has everything that half a step would leave behind: buffers, random numbers, momentum."""

    def __init__(self) -> None:
        super().__init__()
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


def make_study() -> Study:
    def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        x = torch.randn(STEPS * 8 + 40, 4, generator=torch.Generator().manual_seed(1))
        y = (x.sum(1) > 0).long()
        return x[:-40], y[:-40], x[-40:], y[-40:]

    return Study(
        name="leaves",
        model=Net,
        data=data,
        loss=nn.CrossEntropyLoss(),
        metrics="loss",
        space={"lr": uniform(0.01, 0.1)},
        optimizer="adam",
        epochs=EPOCHS,
        batch_size=8,
        trials=2,
    )


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

    def gate(self, then: Callable[[LaneGate], None] | None = None, *, at: int = -1) -> LaneGate:
        self.num_looks = 0

        def now_ns() -> int:
            self.num_looks += 1
            if then is not None and self.num_looks == at:
                then(gate)
            return time.monotonic_ns()

        gate = LaneGate(
            stage=Page.map_for_reading(page_path(self.lane, PageKind.STAGE), PageKind.STAGE),
            site=Page.map_for_reading(page_path(self.lane, PageKind.SITE), PageKind.SITE),
            waiter=Sleeper(),
            trial=None,
            margin_ns=0,
            now_ns=now_ns,
        )
        return gate


class Sleeper:
    """Nobody wakes it: the gate word never changes."""

    def wait_change(self, seen: int, timeout_s: float) -> None:
        del seen
        time.sleep(timeout_s)


def new_folder(parent: Path, name: str) -> StudyFolder:
    folder = StudyFolder(parent, name)
    folder.checkpoints.mkdir(parents=True)
    return folder


def train(study: Study, folder: StudyFolder, gate: LaneGate) -> list[Ended]:
    """Trains what is stored, or from the start, until all trials have ended or the gang leaves."""
    training = BundleTraining(study, folder, gate, TRIALS, unit_ns=10_000, report=None)
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


def test_all_is_stored_before_the_first_window(tmp_path: Path) -> None:
    """The first checkpoint loads what a window has no time for."""
    folder = new_folder(tmp_path, "first")
    gate = OpenLane(tmp_path / "lane").gate()
    BundleTraining(make_study(), folder, gate, TRIALS, unit_ns=10_000, report=None)
    assert {path.name for path in folder.checkpoints.iterdir()} == {"0.pt", "1.pt"}
