"""A lane whose window never ends, and training a bundle on it, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind, Word
from hydro_hpc.study import Study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import LaneGate, LeaveRequested
from hydro_hpc.trial.training import BundleTraining, Ended
from tests.hydro_hpc.lanes import make_lane, stage_page


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


def train_trials(
    study: Study, folder: StudyFolder, gate: LaneGate, trials: Sequence[Trial]
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
