"""A CPU core as a device: the embedded cluster's stand-in for a GPU.

Ranks and trials of a device are pinned to its core, so bubbles are real idle core time and
slowdown is really measurable. A worker is put into the kernel's idle class as a belt behind the
flags; a GPU has no such thing, so nothing may rely on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import time
import weakref
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_TIMERSLACK: Final = 29
_SYS_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}.get(platform.machine(), -1)
_SHORTEST_SLICE_NS: Final = 100_000
_libc = ctypes.CDLL(None)


class _SchedAttr(ctypes.Structure):
    """The kernel's `struct sched_attr`, first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def pin(core: int) -> None:
    """Binds this process (and what it starts) to one core."""
    os.sched_setaffinity(0, {core})


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Makes the kernel signal this process when the one that started it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of all that its descendants leave behind."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class PrimaryThread:
    """The main thread of a core's primary: its `/proc` file, which stays open as long as this."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = -1  # of its /proc file
        with contextlib.suppress(OSError):
            self.fd = os.open(f"/proc/{pid}/task/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self.fd)


def could_run(fd: int) -> bool:
    """Says whether the thread with this `/proc` stat file runs or waits for a core; 2 us."""
    try:
        fields = os.pread(fd, 80, 0)
    except OSError:  # it has ended, or was never there
        return False
    return fields[fields.rfind(b")") + 2 :][:1] == b"R"


def enter_batch_class(tid: int = 0) -> None:
    """Puts a thread (0: the calling one) into SCHED_BATCH with the shortest slice: its share of the
    core is equal to the primary's, but it is never in the way of who wakes up.

    Why, with what was measured: docs/decisions/0006-sharing-a-core.md. Kernels before 6.12 keep
    their own slice.
    """
    attributes = _SchedAttr(
        size=ctypes.sizeof(_SchedAttr),
        sched_policy=os.SCHED_BATCH,
        sched_runtime=_SHORTEST_SLICE_NS,
    )
    if _libc.syscall(_SYS_SCHED_SETATTR, tid, ctypes.byref(attributes), 0):
        os.sched_setscheduler(tid, os.SCHED_BATCH, os.sched_param(0))


def enter_ordinary_class() -> None:
    """Puts this process back into SCHED_OTHER, as every process begins."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def enter_idle_class() -> None:
    """Puts this process into SCHED_IDLE, and the session's autogroup to the lowest weight.

    The class alone ranks only within a scheduling group, and every session is one where autogroup
    is on; so the caller should have begun a session of its own.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # absent without CONFIG_SCHED_AUTOGROUP
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")


def sleep_exactly() -> None:
    """Makes short sleeps of this process (and of what it starts) end within 1 us, not 50."""
    _libc.prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)


def used_ns(pid: int) -> int:
    """Returns the CPU time of all threads of a process so far. Raises ProcessLookupError."""
    clock_id = (~pid << 3) | 2  # the kernel's encoding of a process's CPU-time clock
    try:
        return time.clock_gettime_ns(clock_id)
    except OSError:
        raise ProcessLookupError(f"process {pid} is gone") from None
