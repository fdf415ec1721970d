"""Runs one of Slurm's commands as a child, bounded in time."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

ANSWER_S: Final = 60.0


def run_slurm(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Returns how it ended; one that cannot be run, or does not answer, is one that failed."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=str(error))
