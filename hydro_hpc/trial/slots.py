"""One trial's place in a bundle: how far it has come, and its checkpoint on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydro_hpc.atomic_write import replacing_by_any
from hydro_hpc.study.trial import Trial


@dataclass(slots=True, kw_only=True)
class SlotRun:
    """The trial of one slot. `rows` are this epoch's batches, LongTensor [steps, batch]."""

    trial: Trial
    rows: Tensor
    epoch: int = 0
    position: int = 0  # the next batch of the epoch

    @property
    def step(self) -> int:
        """The optimizer steps that it has made."""
        return self.epoch * len(self.rows) + self.position


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCheckpoint:
    """A trial between two steps: everything that the rest of its training is a function of."""

    number: int
    epoch: int
    position: int
    model: dict[str, Any]  # of the user's own class
    optimizer: dict[str, Any]  # in torch's format

    def save(self, folder: Path) -> None:
        """Stores it as `<number>.pt`, whole."""
        state = {name: getattr(self, name) for name in self.__slots__}
        with replacing_by_any(checkpoint_path(folder, self.number)) as temporary:
            torch.save(state, temporary)

    @staticmethod
    def load(folder: Path, number: int) -> SlotCheckpoint | None:
        """Returns a trial's checkpoint, None if it has none."""
        path = checkpoint_path(folder, number)
        if not path.exists():
            return None
        return SlotCheckpoint(**torch.load(path, weights_only=True))


def checkpoint_path(folder: Path, number: int) -> Path:
    return folder / f"{number}.pt"
