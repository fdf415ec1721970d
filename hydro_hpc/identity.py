"""Who a process is: pid, boot and start time, so that a reused pid is never taken for its former
owner.

Standard library only, any Python from 3.9: root's part (`slurm_plugin/lanes.py`) runs it too.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Optional


class Identity(NamedTuple):
    """One process of one boot. `start_ticks` is field 22 of /proc/<pid>/stat (clock ticks since
    boot).
    """

    pid: int
    boot_id: bytes  # 16 bytes
    start_ticks: int


def read_boot_id() -> bytes:
    """Returns the 16 bytes of this boot's random id."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


def read_start_ticks(pid: int) -> Optional[int]:
    """Returns when `pid` started, or None if there is no such process (a zombie counts as none)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Says whether a process is stopped by SIGSTOP or one like it (not by a debugger)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(None, 1)[0] == b"T"
    except (FileNotFoundError, ProcessLookupError):
        return False


def own_identity() -> Identity:
    """Returns the identity of this process."""
    pid = os.getpid()
    start_ticks = read_start_ticks(pid)
    assert start_ticks is not None
    return Identity(pid, read_boot_id(), start_ticks)


def is_alive(identity: Identity) -> bool:
    """Says whether that very process still runs (not merely one with its pid)."""
    return (
        identity.pid > 0
        and identity.boot_id == read_boot_id()
        and read_start_ticks(identity.pid) == identity.start_ticks
    )
