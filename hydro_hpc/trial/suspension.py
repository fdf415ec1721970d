"""What `scontrol suspend` of a gang does here.

Slurm sends SIGTSTP to a step's own processes alone, the supervisors, and stops or freezes the rest
two seconds later (slurmstepd, `_handle_suspend`). So a supervisor stops what it started, then
itself; with the SIGCONT of `scontrol resume` it goes on, and all that it had stopped.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

from hydro_hpc.trial.process_tree import BySignals


def suspend(_number: int, _frame: FrameType | None) -> None:
    """Handles SIGTSTP; returns after SIGCONT. Who was stopped already stays stopped."""
    started = BySignals(os.getpid())
    started.pause()
    os.kill(os.getpid(), signal.SIGSTOP)
    started.resume()
