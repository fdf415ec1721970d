"""A cgroup of our own that the kernel freezes as a whole, where we may make one.

Not below a step's cgroup of Slurm: Slurm signals and counts only what stands in the step's own
group, so a child group would be out of its sight; there, processes are stopped by signals.

Not covered: on version 1 a frozen tree stays, unkillable until somebody thaws it, if pauser and
supervisor are both killed at once by SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

FREEZE: Final = {1: ("freezer.state", "FROZEN", "THAWED"), 2: ("cgroup.freeze", "1", "0")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A cgroup that this process is in, in a hierarchy that can freeze."""

    version: Literal[1, 2]
    path: str  # within the hierarchy
    directory: str
    is_writable: bool


def choose(places: Sequence[Place]) -> Place | None:
    """Returns where to make the group, None if signals must do. Version 2 first: a frozen process
    of version 1 cannot even be killed.
    """
    usable = [
        place
        for place in places
        if place.is_writable and not any(part.startswith("step_") for part in place.path.split("/"))
    ]
    return max(usable, key=lambda place: place.version, default=None)


def find_places(proc_cgroup: str, mountinfo: str) -> list[Place]:
    """Returns the places that the texts of /proc/self/cgroup and /proc/self/mountinfo name."""
    places = []
    for line in proc_cgroup.splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "freezer" not in controllers.split(","):
            continue
        version: Literal[1, 2] = 2 if number == "0" else 1
        for root, mount in _mounts(mountinfo, version):
            below = path if root == "/" else path[len(root) :] if path.startswith(root) else None
            if below is not None and ".." not in path.split("/"):
                directory = (mount + below).rstrip("/")
                is_writable = os.access(f"{directory}/cgroup.procs", os.W_OK)
                places.append(
                    Place(version=version, path=path, directory=directory, is_writable=is_writable)
                )
    return places


def _mounts(mountinfo: str, version: Literal[1, 2]) -> Iterator[tuple[str, str]]:
    for line in mountinfo.splitlines():
        facts, _, kind = line.partition(" - ")
        fields, kinds = facts.split(" "), kind.split(" ")
        is_v2 = kinds[0] == "cgroup2"
        is_v1 = kinds[0] == "cgroup" and "freezer" in kinds[-1].split(",")
        if (is_v2 and version == 2) or (is_v1 and version == 1):
            yield fields[3], fields[4]


class Freezer:
    """One group below a place, for the processes of one command."""

    def __init__(self, place: Place, name: str) -> None:
        """Makes the group, or takes one that was left, and thaws it. Raises OSError if it cannot be
        made, or cannot freeze.
        """
        self.directory = f"{place.directory}/{name}"
        self._file, self._frozen, self._thawed = FREEZE[place.version]
        os.makedirs(self.directory, exist_ok=True)
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
            os.rmdir(self.directory)

    def _write(self, name: str, text: str) -> None:
        with open(f"{self.directory}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def make_freezer(name: str) -> Freezer | None:
    """Returns the group of that name below this process's own, None where there can be none."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = file.read()
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            place = choose(find_places(own, file.read()))
        return None if place is None else Freezer(place, name)
    except OSError:
        return None


def group_name(pid: int) -> str:
    """Returns the name of the cgroup that the pauser of this pid makes."""
    return f"hydro-{pid}"
