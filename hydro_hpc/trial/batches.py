"""The batches of a bundle's slots, side by side, each trial at its own place in its own order.

F slots, S steps of an epoch, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hydro_hpc.errors import FusionError
from hydro_hpc.study.definition import Study
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.slots import SlotRun

Failed = Callable[[int, Exception], None]
Point = Callable[[str], None]


class SlotBatches:
    """What the slots see next. They see batches of one size, since these lie in one tensor."""

    def __init__(self, study: Study, *, size: int) -> None:
        self.size = size
        self._study = study
        self._data = study.data()
        self._slots: Sequence[SlotRun | None] = ()
        self._num_moved = 0  # steps since `place`, not yet in the slots' positions
        self.num_plain = 0  # steps from `place` until some trial's epoch ends

    def require(self, trial: Trial) -> None:
        """FusionError if a trial's batches do not fit beside those of the others."""
        own = self._study.batch_size_of(trial.params)
        if own != self.size:
            raise FusionError(
                f"trial {trial.number} has batches of {own} rows, the trials beside it of "
                f"{self.size}; bundle only trials of one batch size"
            )

    def place(self, slots: Sequence[SlotRun | None]) -> None:
        """Lays the slots' batches side by side; None: a slot without a trial."""
        self._slots = slots
        steps = len(self._data.train_x) // self.size
        spare = torch.zeros((steps, self.size), dtype=torch.long)
        self._rows_FSB = torch.stack([spare if run is None else run.rows for run in slots])
        self._positions_F = torch.tensor([0 if run is None else run.position for run in slots])
        self._slot_numbers_F = torch.arange(len(slots))
        self._num_moved = 0
        self.num_plain = min(
            (len(run.rows) - run.position for run in slots if run is not None), default=1
        )

    def next(self, point: Point, failed: Failed) -> tuple[Tensor, Tensor]:
        """Returns inputs [F, B, ...] and targets [F, B, ...]; `point` is called where this may
        pause, `failed` with the slot and what the study's `augment` raised there.
        """
        rows_FB = self._rows_FSB[self._slot_numbers_F, self._positions_F]
        point("inputs")
        inputs = self._data.train_x[rows_FB]
        if self._study.augment is not None:
            self._augment(inputs, point, failed)
        point("targets")
        return inputs, self._data.train_y[rows_FB]

    def _augment(self, inputs: Tensor, point: Point, failed: Failed) -> None:
        for slot, run in enumerate(self._slots):
            point("augment")
            if run is None:
                continue
            step = run.step + self._num_moved
            try:
                inputs[slot] = self._study.inputs(inputs[slot], run.trial.seed, step)
            except Exception as error:  # the user's code: it may raise anything
                failed(slot, error)

    def move_on(self) -> bool:
        """Moves every trial on by one batch. Returns whether all are still in their epochs."""
        self._num_moved += 1
        self._positions_F += 1
        return self._num_moved < self.num_plain

    def note_positions(self) -> None:
        """Writes the steps made since `place` into the slots' own counts."""
        for run in self._slots:
            if run is not None:
                run.position += self._num_moved
        self._num_moved = 0
