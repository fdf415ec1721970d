"""The memory cgroups that bound a process: their limits and what is held below each of them.

Every directory on the path from the process's own cgroup to the root of its mount counts. Page
cache does not: the kernel drops it before it lets anybody run out of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hydro_hpc.cgroup import Cgroup, own_cgroups

FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("memory.max", "memory.current", ""),
}
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
    return limiting(own_cgroups("memory"))


def limiting(cgroups: Sequence[Cgroup]) -> list[MemoryCgroup]:
    """Returns every directory that the first of a process's cgroups is in; a hybrid host is v1."""
    if not cgroups:
        return []
    limit_file, usage_file, stat_prefix = FILES[cgroups[0].version]
    return [
        MemoryCgroup(
            path=path, limit_file=limit_file, usage_file=usage_file, stat_prefix=stat_prefix
        )
        for path in cgroups[0].directories()
    ]
