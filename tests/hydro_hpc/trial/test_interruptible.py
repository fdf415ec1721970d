"""A model that is built while its bundle trains pauses between its layers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import LaneError
from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, Word
from hydro_hpc.surrogate import Narrow
from hydro_hpc.trial.gate import LaneGate, LeaveRequested
from hydro_hpc.trial.interruptible import CutBeforeOperations
from hydro_hpc.trial.training import BundleTraining
from tests.hydro_hpc.lanes import set_site_word
from tests.hydro_hpc.trial.open_lane import OpenLane, new_folder
from tests.hydro_hpc.trial.test_bundled_trials import make_study, trials_of

LAYERS, AT = 8, 3


class Tall(nn.Module):
    """Calls `meanwhile` when `AT` of its layers are built."""

    meanwhile: Callable[[], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16))
        for built in range(1, LAYERS):
            if built == AT and Tall.meanwhile is not None:
                Tall.meanwhile()
            self.layers.append(nn.Linear(16, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x))
        return logits


class ClosingLane(OpenLane):
    """Its window can be closed; once it is waited for, another one opens."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.waited = 0

    def close(self) -> None:
        self.primary.set("close_ns", time.monotonic_ns())
        self.primary.set("gate_word", 1 << 8 | GATE_CLOSED)

    def wait_change(self, seen: int, timeout_s: float) -> None:
        super().wait_change(seen, timeout_s)
        self.waited += 1
        self.primary.set("gate_word", 2 << 8 | GATE_OPEN)


@pytest.fixture(autouse=True)
def _nothing_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tall, "meanwhile", None)


def in_training(tmp_path: Path, gate: LaneGate, **changes: Any) -> BundleTraining:
    study = make_study(model=Tall, **changes)
    trials = trials_of([{"lr": 0.02}])
    training = BundleTraining(
        study, new_folder(tmp_path, "study"), gate, trials, unit_ns=10_000, report=None
    )
    while training.has_work():
        training.step()
    return training


@pytest.mark.parametrize("changes", [{}, {"surrogate": Narrow(by=4)}])
def test_a_build_waits_for_the_next_window_before_its_next_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Also that of the target, of which a surrogate that is followed is made."""
    lane = ClosingLane(tmp_path / "lane")
    training = in_training(tmp_path, lane.gate(), **changes)
    waited_at: list[int] = []
    made = nn.Linear.__init__

    def counted(layer: nn.Linear, *sizes: int, **named: Any) -> None:
        before = lane.waited
        made(layer, *sizes, **named)
        waited_at.append(lane.waited - before)

    monkeypatch.setattr(nn.Linear, "__init__", counted)
    monkeypatch.setattr(Tall, "meanwhile", lane.close)
    assert training.begin(trials_of([{"lr": 0.02}, {"lr": 0.05}])[1]) is None
    assert waited_at == [*[0] * AT, 1, *[0] * (LAYERS - AT)]  # in the layer that comes next


def test_who_has_to_leave_in_a_build_leaves_and_the_trial_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = ClosingLane(tmp_path / "lane")
    gate = lane.gate()
    training = in_training(tmp_path, gate)
    monkeypatch.setattr(Tall, "meanwhile", gate.leave)
    with pytest.raises(LeaveRequested):
        training.begin(trials_of([{"lr": 0.02}, {"lr": 0.05}])[1])


def test_a_lane_that_goes_in_a_build_is_no_failure_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = ClosingLane(tmp_path / "lane")
    training = in_training(tmp_path, lane.gate())

    def go() -> None:
        lane.close()
        set_site_word(lane.lane, Word.GONE)

    monkeypatch.setattr(Tall, "meanwhile", go)
    with pytest.raises(LaneError, match="the lane is gone"):
        training.begin(trials_of([{"lr": 0.02}, {"lr": 0.05}])[1])


def test_what_is_computed_and_drawn_is_the_same() -> None:
    cuts: list[str] = []
    torch.manual_seed(3)
    with CutBeforeOperations(cuts.append):
        found = Tall()
        y = found(torch.ones(2, 4))
    torch.manual_seed(3)
    expected = Tall()
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(y, expected(torch.ones(2, 4)))
    assert cuts.count("kaiming_uniform_ of 256") == LAYERS - 1
    assert not [cut for cut in cuts if "__get__" in cut]
