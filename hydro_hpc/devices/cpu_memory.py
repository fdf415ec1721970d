"""The memory of a CPU device: resident size, under the limits of Slurm's cgroups and of the node.

Where no cgroup has a limit, the node's memory is the limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

from hydro_hpc.devices.memory_cgroup import memory_cgroups

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None)


class CpuMemory:
    """Of the process that makes it, in the cgroups that it was in then."""

    def __init__(self) -> None:
        self._cgroups = memory_cgroups()
        self._total_bytes = node_memory()[0]

    def limit_bytes(self) -> int:
        limits = [cgroup.limit_bytes() for cgroup in self._cgroups]
        return min([self._total_bytes, *(limit for limit in limits if limit is not None)])

    def room_bytes(self) -> int:
        """Counts the whole of this process as resident, what it shares with others twice: on the
        safe side by the size of the libraries."""
        own_bytes = self._own_bytes()
        total_bytes, available_bytes = node_memory()
        rooms = [total_bytes - max(0, total_bytes - available_bytes - own_bytes)]
        for cgroup in self._cgroups:
            limit_bytes = cgroup.limit_bytes()
            if limit_bytes is not None and limit_bytes < total_bytes:
                rooms.append(limit_bytes - max(0, cgroup.used_bytes() - own_bytes))
        return max(0, min(rooms))

    def used_bytes(self) -> int:
        return _statm()[1] * PAGE_BYTES

    def peak_bytes(self) -> int:
        """Not `ru_maxrss`: after an exec that is never less than what the parent had held."""
        status = Path("/proc/self/status").read_bytes()
        return int(status.partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024

    def forget_peak(self) -> None:
        with contextlib.suppress(OSError):  # a kernel without it keeps the peak: the safe side
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def give_back(self) -> None:
        trim_heaps()

    def _own_bytes(self) -> int:
        """Returns what of this process a cgroup counts and cannot drop."""
        _, resident, shared, *_ = _statm()
        return (resident - shared) * PAGE_BYTES


def trim_heaps() -> None:
    """glibc keeps freed pages of its heaps; elsewhere they stay where they are."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def go_first() -> None:
    """Makes the kernel end this process before any other of its cgroup when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def node_memory() -> tuple[int, int]:
    """Returns the node's memory and how much of it is available, bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    facts = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    return facts["MemTotal"], facts["MemAvailable"]


def _statm() -> list[int]:
    return [int(pages) for pages in Path("/proc/self/statm").read_text(encoding="ascii").split()]
