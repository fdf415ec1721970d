"""What a gang runs, as each of its supervisors starts it: the bundle of a study, or a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyJob:
    """The study file, the directory of its folder, trials per bundle (None: as it says)."""

    module: ClassVar[str] = "hydro_hpc.trial.worker_process"
    going_on: ClassVar[str] = "started again, the study goes on where it was"

    file: Path
    directory: Path
    slots: int | None

    def arguments(self) -> list[str]:
        slots = [] if self.slots is None else ["--slots", str(self.slots)]
        return ["--study", str(self.file), "--folder", str(self.directory), *slots]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandJob:
    """Any command: its words, the first one a path or a name on PATH."""

    module: ClassVar[str] = "hydro_hpc.trial.pauser"
    going_on: ClassVar[str] = "started again, the command begins anew"

    words: tuple[str, ...]

    def arguments(self) -> list[str]:
        return ["--", *self.words]


Job = StudyJob | CommandJob
