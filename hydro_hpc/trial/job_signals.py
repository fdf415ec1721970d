"""What the signals do that Slurm, or a user, sends to a supervisor.

To leave: SIGTERM, SIGINT, SIGHUP. To tell the command something: SIGUSR1 and SIGUSR2 (`sbatch
--signal=USR1@120`). To stand still: SIGTSTP, of `scontrol suspend`. Slurm sends that to a step's
own processes alone, the supervisors, and stops or freezes the rest two seconds later (slurmstepd,
`_handle_suspend`). So a supervisor stops what it started, then itself; with the SIGCONT of
`scontrol resume` it goes on, and all that it had stopped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

from hydro_hpc.trial.process_tree import BySignals

TO_LEAVE: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TO_PASS_ON: Final = (signal.SIGUSR1, signal.SIGUSR2)

Handler = Callable[[int, FrameType | None], None]


def handle(*, leave: Handler, pass_on: Handler) -> None:
    """From now on those signals do that."""
    for number in TO_LEAVE:
        signal.signal(number, leave)
    for number in TO_PASS_ON:
        signal.signal(number, pass_on)
    signal.signal(signal.SIGTSTP, _suspend)


def suspend_nothing() -> None:
    """Nothing that was started is left: SIGTSTP stops this process as any other."""
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _suspend(_number: int, _frame: FrameType | None) -> None:
    """Returns after SIGCONT. Who was stopped already stays stopped."""
    started = BySignals(os.getpid())
    started.pause()
    os.kill(os.getpid(), signal.SIGSTOP)
    started.resume()
