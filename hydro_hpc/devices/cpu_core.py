"""A CPU core as a device: the embedded cluster's stand-in for a GPU.

Ranks and trials of a device are pinned to its core, so bubbles are real idle core time and
slowdown is really measurable. A worker is put into the kernel's idle class as a belt behind the
flags; a GPU has no such thing, so nothing may rely on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)


def pin(core: int) -> None:
    """Binds this process (and what it starts) to one core."""
    os.sched_setaffinity(0, {core})


def die_with_parent() -> None:
    """Makes the kernel kill this process when the one that started it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def enter_idle_class() -> None:
    """Puts this process into SCHED_IDLE, and the session's autogroup to the lowest weight.

    The class alone ranks only within a scheduling group, and every session is one where autogroup
    is on; so the caller should have begun a session of its own.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # absent without CONFIG_SCHED_AUTOGROUP
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")


def used_ns(pid: int) -> int:
    """Returns the CPU time of all threads of a process so far. Raises ProcessLookupError."""
    clock_id = (~pid << 3) | 2  # the kernel's encoding of a process's CPU-time clock
    try:
        return time.clock_gettime_ns(clock_id)
    except OSError:
        raise ProcessLookupError(f"process {pid} is gone") from None
