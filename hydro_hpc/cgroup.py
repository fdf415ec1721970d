"""Where the cgroup of a process is mounted, in the hierarchy of one controller.

cgroup v1 and v2, whatever layout Slurm or a container made. Not covered: mount points whose name
the kernel escapes (spaces).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Version = Literal[1, 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """A cgroup that a process is in, as one mount of its hierarchy shows it."""

    version: Version
    path: str  # within the hierarchy
    mount: Path  # the outermost directory that the mount shows
    directory: Path  # the cgroup's own, `mount` or below it

    def directories(self) -> list[Path]:
        """Returns its own and those around it, as far as the mount shows them, innermost first."""
        around = (self.directory, *self.directory.parents)
        return [directory for directory in around if directory.is_relative_to(self.mount)]


def own_cgroups(controller: str) -> list[Cgroup]:
    """Returns this process's, as find_cgroups does; none where the kernel has no such thing."""
    try:
        return find_cgroups(
            controller,
            Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"),
            Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"),
        )
    except OSError:
        return []


def find_cgroups(controller: str, proc_cgroup: str, mountinfo: str) -> list[Cgroup]:
    """Returns one for each mount that shows the process's cgroup: of v1's hierarchy with that
    controller, then of v2's, which may not have the controller.

    The texts are those of /proc/<pid>/cgroup and of the reader's /proc/self/mountinfo.
    """
    found = []
    for version, path in _paths(controller, proc_cgroup):
        for root, mount in _mounts(controller, version, mountinfo):
            if Path(path).is_relative_to(root):
                directory = mount / Path(path).relative_to(root)
                found.append(Cgroup(version=version, path=path, mount=mount, directory=directory))
    return sorted(found, key=lambda cgroup: cgroup.version)


def _paths(controller: str, proc_cgroup: str) -> Iterator[tuple[Version, str]]:
    """Yields the process's path in each hierarchy, but for those outside its namespace."""
    for line in proc_cgroup.splitlines():
        number, controllers, path = line.split(":", 2)
        if ".." in path.split("/"):
            continue
        if number == "0":
            yield 2, path
        elif controller in controllers.split(","):
            yield 1, path


def _mounts(controller: str, version: Version, mountinfo: str) -> Iterator[tuple[Path, Path]]:
    """Yields (the cgroup that the mount shows as its root, mount point)."""
    for line in mountinfo.splitlines():
        facts, _, kind = line.partition(" - ")
        fields, (name, _, options) = facts.split(" "), kind.split(" ", 2)
        is_v1 = name == "cgroup" and controller in options.split(",")
        if (version == 1 and is_v1) or (version == 2 and name == "cgroup2"):
            yield Path(fields[3]), Path(fields[4])
