"""Builds a worker's bundles to the memory there is, and takes them down again.

Outside the gate, as the first bundle was: memory is wanted now, and a build is no unit of work.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page
from hydro_hpc.page_layout import TrialState
from hydro_hpc.study.definition import Study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.room import Room
from hydro_hpc.trial.training import BundleTraining


class BundleBuilder:
    """Owns the worker's one bundle: `training`, None while no slot fits."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        gate: LaneGate,
        page: Page,
        room: Room,
        *,
        unit_ns: int,
        report: Callable[[int, int, float], None] | None,
    ) -> None:
        self._study = study
        self._folder = folder
        self._gate = gate
        self._page = page
        self._room = room
        self._unit_ns = unit_ns
        self._report = report
        self.training: BundleTraining | None = None
        self.stored_s = 0.0  # when all trials were stored last
        self._said: set[str] = set()

    def measure_small(self, trials: list[Trial]) -> None:
        """Builds one slot, and two where it is not clear yet that all fit: then it is known how
        many do, before they are built. Together at most a fifth of the time that 16 take.

        Raises LaneError if not even one fits.
        """
        gc.collect()
        self._room.note_idle()
        for slots in (1, 2):
            fitting = self._room.fitting(len(trials))
            if slots >= len(trials) or not fitting or (slots > 1 and fitting == len(trials)):
                break
            self.training = self._bind(trials[:slots])
            self._room.note_built(slots)
            self._drop()
        if not self._room.fitting(len(trials)):
            raise LaneError(self._room.sentence())

    def build(self, trials: list[Trial]) -> None:
        """Makes a bundle of `trials`; of none: bubbles are skipped."""
        if trials:
            self.training = self._bind(trials)
            self._room.note_built(len(trials))
            self._say_if_not_fused(self.training)
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection in mid-window would overrun; there is one per checkpoint
        self._say_state()
        self.stored_s = time.monotonic()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What runs inside is outside the gate too, with the bundle as it is: it belongs into no
        window, and what it leaves in memory goes at once.
        """
        self._gate.pause()
        self._page.set("state", TrialState.STARTING)
        try:
            yield
        finally:
            gc.collect()
            self._say_state()

    def take_down(self) -> None:
        """Stores all trials and gives the bundle's memory back."""
        self.store_ungated()
        self._gate.pause()
        self._page.set("state", TrialState.STARTING)
        self._drop()

    def store(self) -> None:
        """Stores all trials in windows, and collects garbage."""
        if self.training is not None:
            self.training.checkpoint_in_windows()
            gc.collect()
        self.stored_s = time.monotonic()

    def store_ungated(self) -> None:
        """Stores all trials at once: the lane may be gone, or memory wanted now."""
        if self.training is not None:
            self.training.checkpoint()

    def _bind(self, trials: list[Trial]) -> BundleTraining:
        return BundleTraining(
            self._study,
            self._folder,
            self._gate,
            trials,
            unit_ns=self._unit_ns,
            report=self._report,
        )

    def _say_state(self) -> None:
        has_bundle = self.training is not None
        self._page.set("state", TrialState.TRAINING if has_bundle else TrialState.SKIPPING)

    def _drop(self) -> None:
        self.training = None
        gc.unfreeze()
        gc.collect()
        self._room.note_idle()

    def _say_if_not_fused(self, training: BundleTraining) -> None:
        reason = training.why_not_fused
        if reason and reason not in self._said and os.environ.get("SLURM_PROCID", "0") == "0":
            self._said.add(reason)
            print(f"hydro-trial: {reason}", flush=True)
