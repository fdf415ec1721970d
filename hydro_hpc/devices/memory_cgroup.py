"""The memory cgroups that bound a process: their limits and what is held below each of them.

cgroup v1 and v2, whatever layout Slurm or a container made: every directory on the path from the
process's own cgroup to the root of its mount counts. Page cache does not: the kernel drops it
before it lets anybody run out of memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CACHE: Final = ("active_file", "inactive_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCgroup:
    """One directory and the names of its files, which differ between v1 and v2."""

    path: Path
    limit_file: str
    usage_file: str
    stat_prefix: str  # v1: "total_", for all that is below

    def limit_bytes(self) -> int | None:
        """Returns the limit, None if it has none or is gone."""
        try:
            text = (self.path / self.limit_file).read_text(encoding="ascii").strip()
        except OSError:
            return None
        return None if text == "max" else int(text)

    def used_bytes(self) -> int:
        """Returns what its processes hold and cannot be dropped; 0 if it is gone."""
        try:
            usage_bytes = int((self.path / self.usage_file).read_text(encoding="ascii"))
            lines = (self.path / "memory.stat").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        stat = dict(line.split(" ", 1) for line in lines)
        cache_bytes = sum(int(stat.get(self.stat_prefix + name, 0)) for name in _CACHE)
        return max(0, usage_bytes - cache_bytes)


def memory_cgroups() -> list[MemoryCgroup]:
    """Returns those of this process, innermost first; none where the kernel has no such thing."""
    with contextlib.suppress(OSError):
        return find_memory_cgroups(
            Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"),
            Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"),
        )
    return []


def find_memory_cgroups(proc_cgroup: str, mountinfo: str) -> list[MemoryCgroup]:
    """The same, from the texts of /proc/<pid>/cgroup and mountinfo. A hybrid host is v1."""
    for controller, names in (
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")),
        ("", ("memory.max", "memory.current", "")),
    ):
        own = _own_path(proc_cgroup, controller)
        for root, mount in _mounts(mountinfo, controller):
            if own is None or not (own + "/").startswith(root.rstrip("/") + "/"):
                continue
            top = Path(mount)
            inner = top / own[len(root.rstrip("/")) :].lstrip("/")
            return [
                MemoryCgroup(
                    path=path, limit_file=names[0], usage_file=names[1], stat_prefix=names[2]
                )
                for path in (inner, *inner.parents)
                if path.is_relative_to(top)
            ]
    return []


def _own_path(proc_cgroup: str, controller: str) -> str | None:
    """Returns the process's path in a hierarchy: of a v1 controller, or "" for v2."""
    for line in proc_cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and ".." not in path.split("/"):
            return path
    return None


def _mounts(mountinfo: str, controller: str) -> list[tuple[str, str]]:
    """Returns (root, mount point) of a hierarchy's mounts."""
    found = []
    for line in mountinfo.splitlines():
        facts, _, kind = line.partition(" - ")
        fields, (name, _, options) = facts.split(" "), kind.split(" ", 2)
        is_it = controller in options.split(",") if controller else True
        if name == ("cgroup" if controller else "cgroup2") and is_it:
            found.append((fields[3], fields[4]))
    return found
