"""All processes that a command started, however they left it: paused, continued, ended as one.

The process that starts the command is their *subreaper*: whoever loses his parent becomes its
child, so the tree is its descendants, in whatever group or session. Not covered: time of children
whose parent never waited for them (the kernel does not keep it), and what is born within two looks
at a tree that forks all the time; whoever escapes is seen by his device time and paused again.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from typing import Final, Protocol

from hydro_hpc.devices import cpu_core
from hydro_hpc.identity import is_stopped

CLEAN_LOOKS: Final = 2  # at a tree in which nobody runs, before it is taken for paused
KILL_LOOK_S: Final = 0.002
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Pausing(Protocol):
    """How the processes of a tree are stopped."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Tree(Protocol):
    """What a pauser needs of a command's processes."""

    def exit_code(self) -> int | None:
        """Returns how the command itself ended (negative: by a signal), None if it has not."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def ask_to_end(self) -> None:
        """Sends SIGTERM to all, and lets them run."""

    def kill(self, *, give_up_s: float) -> bool:
        """Kills all and says whether nobody is left."""

    def used_ns(self) -> int:
        """Returns the CPU time of all, also of those that have ended; never falls."""


def descendants(pid: int) -> list[int]:
    """Returns all processes below `pid` that still run."""
    found = list(_children(pid))
    for member in found:  # grows meanwhile
        found += _children(member)
    return found


def _children(pid: int) -> Iterator[int]:
    tasks = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for tid in os.listdir(tasks):
            with contextlib.suppress(OSError), open(f"{tasks}/{tid}/children", "rb") as file:
                yield from map(int, file.read().split())


class BySignals:
    """SIGSTOP and SIGCONT to each. Who was stopped by somebody else already is left to him."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._paused: set[int] = set()

    def pause(self) -> None:
        seen: set[int] = set()
        num_clean = 0
        while num_clean < CLEAN_LOOKS:
            new = set(descendants(self._root)) - seen
            num_clean = 0 if new else num_clean + 1
            seen |= new
            for pid in new:
                if not is_stopped(pid) or pid in self._paused:
                    _signal(pid, signal.SIGSTOP)
                    self._paused.add(pid)

    def resume(self) -> None:
        for pid in self._paused.intersection(descendants(self._root)):
            _signal(pid, signal.SIGCONT)
        self._paused.clear()


class ProcessTree:
    """The descendants of `root`, this process."""

    def __init__(self, root: int, pausing: Pausing, *, first_pid: int = 0) -> None:
        """`first_pid`: the command itself, whose exit code is kept."""
        self._root = root
        self._pausing = pausing
        self._first_pid = first_pid
        self._exit_code: int | None = None
        self._used_ns = 0

    def exit_code(self) -> int | None:
        """Collects who has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid == self._first_pid:
                    self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def pause(self) -> None:
        self._pausing.pause()

    def resume(self) -> None:
        self._pausing.resume()

    def ask_to_end(self) -> None:
        members = descendants(self._root)
        for pid in members:
            _signal(pid, signal.SIGTERM)
        self._pausing.resume()
        for pid in members:
            _signal(pid, signal.SIGCONT)

    def kill(self, *, give_up_s: float) -> bool:
        give_up = time.monotonic() + give_up_s
        while members := descendants(self._root):
            for pid in members:
                _signal(pid, signal.SIGKILL)
            self._pausing.resume()  # on cgroup v1 a frozen process dies only once it is thawed
            self.exit_code()
            if time.monotonic() > give_up:
                return False
            time.sleep(KILL_LOOK_S)
        return True

    def used_ns(self) -> int:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_ns = int((ended.ru_utime + ended.ru_stime) * 1e9)
        for pid in descendants(self._root):
            with contextlib.suppress(ProcessLookupError):
                used_ns += cpu_core.used_ns(pid) + _used_by_ended_children_ns(pid)
        self._used_ns = max(self._used_ns, used_ns)
        return self._used_ns


def _used_by_ended_children_ns(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return (int(fields[13]) + int(fields[14])) * _TICK_NS


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
