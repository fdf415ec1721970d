"""A cgroup of our own that the kernel freezes as a whole, where we may make one.

Not below a step's cgroup of Slurm: Slurm signals and counts only what stands in the step's own
group, so a child group would be out of its sight; there, processes are stopped by signals.

Not covered: on version 1 a frozen tree stays, unkillable until somebody thaws it, if pauser and
supervisor are both killed at once by SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

from hydro_hpc.cgroup import Cgroup, own_cgroups

FREEZE: Final = {1: ("freezer.state", "FROZEN", "THAWED"), 2: ("cgroup.freeze", "1", "0")}


def choose(cgroups: Sequence[Cgroup]) -> Cgroup | None:
    """Returns where to make the group, None if signals must do. Version 2 first: a frozen process
    of version 1 cannot even be killed.
    """
    usable = [
        cgroup
        for cgroup in cgroups
        if not any(part.startswith("step_") for part in cgroup.path.split("/"))
    ]
    return max(usable, key=lambda cgroup: cgroup.version, default=None)


def writable(cgroups: Sequence[Cgroup]) -> list[Cgroup]:
    """Returns those that are there and that this process may write to."""
    return [c for c in cgroups if os.access(c.directory / "cgroup.procs", os.W_OK)]


class Freezer:
    """One group below another, for the processes of one command."""

    def __init__(self, parent: Cgroup, name: str) -> None:
        """Makes the group, or takes one that was left, and thaws it. Raises OSError if it cannot be
        made, or cannot freeze.
        """
        self.directory = parent.directory / name
        self._file, self._frozen, self._thawed = FREEZE[parent.version]
        self.directory.mkdir(exist_ok=True)
        try:
            self.resume()
        except OSError:
            self.close()
            raise

    def join(self) -> None:
        """Puts the calling process, and what it will start, into the group."""
        self._write("cgroup.procs", "0")

    def pause(self) -> None:
        self._write(self._file, self._frozen)

    def resume(self) -> None:
        self._write(self._file, self._thawed)

    def close(self) -> None:
        """Removes the group; whoever is still in it keeps it."""
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="ascii")


def make_freezer(name: str) -> Freezer | None:
    """Returns the group of that name below this process's own, None where there can be none."""
    parent = choose(writable(own_cgroups("freezer")))
    try:
        return None if parent is None else Freezer(parent, name)
    except OSError:
        return None


def group_name(pid: int) -> str:
    """Returns the name of the cgroup that the pauser of this pid makes."""
    return f"hydro-{pid}"
