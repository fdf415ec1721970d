"""The loss curve of the primary, and that of the same training which shares with nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.hydro_hpc.growing_file import GrowingFile
from tests.soak.jobs import run_ranks
from tests.soak.node import Node

FIRST_STEPS: Final = 800
MORE_STEPS: Final = 1_500  # at most 10 s of it


class LossFile:
    """Losses by step, as text, read while the file grows."""

    def __init__(self, directory: Path) -> None:
        self._file = GrowingFile(directory / "losses")

    def read(self) -> list[tuple[int, str]]:
        """Returns (step, loss) for each line that has come since the last call."""
        pairs = (line.decode("ascii").split() for line in self._file.new_lines())
        return [(int(step), loss) for step, loss in pairs]


class Reference:
    """The same script without Slurm, plugin, hooks and tenants: made as far as it is asked for."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node = node
        self._directory = directory
        self._file = LossFile(directory)
        self._losses: dict[int, str] = {}

    def loss(self, step: int) -> str:
        if step not in self._losses:
            self._go_on(until=max(FIRST_STEPS, step + MORE_STEPS if self._losses else 0))
        return self._losses[step]

    def _go_on(self, *, until: int) -> None:
        ranks = run_ranks(self._node, self._directory, steps=until, work_ms="0,0")
        assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
        self._losses.update(self._file.read())
