"""The private cgroups of a cluster: one per namespace, below one directory in each hierarchy.

They bound what a node's processes may do, and they are how everything of a cluster is found and
ended: children inherit their cgroup, whatever else they do.

cgroup v1: `/sys/fs/cgroup/{freezer,devices}/<cluster>/<member>`; Slurm tracks steps in freezer and
constrains devices in devices. cgroup v2: `/sys/fs/cgroup/<cluster>/<member>/daemons`; only leaves
may hold processes, so the member's own directory has Slurm's slice beside the daemons.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hydro_hpc.errors import SlurmError

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
V1_NEEDED: Final = ("freezer", "devices")
LEAF: Final = "daemons"
SLICE: Final = "system.slice"  # where Slurm's cgroup/v2 plugin puts its scope, below the member
REMOVE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupSupport:
    """What the kernel offers. `version` 0: nothing that Slurm could use."""

    version: int
    v1_controllers: tuple[str, ...] = ()

    @property
    def not_enforced(self) -> list[str]:
        """One sentence for each thing that cannot be enforced here."""
        if self.version == 2:
            return []
        texts = []
        if "devices" not in self.v1_controllers:
            texts.append(
                "devices: this kernel offers no device cgroup, so any job can open any device of "
                "its node and no lane is lent"
            )
        if "freezer" not in self.v1_controllers:
            texts.append(
                "processes: this kernel offers no freezer cgroup, so a job's process that leaves "
                "its process tree is not ended with the job"
            )
        return texts

    @property
    def tracks_processes(self) -> bool:
        return self.version == 2 or "freezer" in self.v1_controllers

    @property
    def constrains_devices(self) -> bool:
        return self.version == 2 or "devices" in self.v1_controllers


def detect_cgroups(root: Path = CGROUP_ROOT) -> CgroupSupport:
    """Returns what is mounted below `root`. A hybrid host (v2 without controllers) counts as v1."""
    if (root / "cgroup.controllers").exists():
        return CgroupSupport(version=2)
    found = tuple(name for name in V1_NEEDED if (root / name / "cgroup.procs").exists())
    return CgroupSupport(version=1 if found else 0, v1_controllers=found)


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The cgroups of one cluster, of name `name`."""

    name: str
    support: CgroupSupport
    root: Path = CGROUP_ROOT

    def _tops(self) -> list[Path]:
        if self.support.version == 2:
            return [self.root / self.name]
        return [self.root / controller / self.name for controller in self.support.v1_controllers]

    def create(self, members: list[str]) -> None:
        """Makes the directories of all members; existing ones are kept.

        Raises SlurmError where even root may not.
        """
        below = (LEAF, SLICE) if self.support.version == 2 else ("",)
        try:
            for top, member, name in itertools.product(self._tops(), members, below):
                (top / member / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SlurmError(
                f"cgroup {error.filename} cannot be made ({error.strerror}); mount {self.root} "
                "writable, e.g. start the container with --privileged"
            ) from None

    def namespace_roots(self, member: str) -> list[Path]:
        """What has to be joined before unsharing, to become the root of the cgroup namespace."""
        return [top / member for top in self._tops()]

    def joined_by_daemons(self, member: str) -> list[Path]:
        """Where the member's processes live."""
        leaf = LEAF if self.support.version == 2 else ""
        return [top / member / leaf for top in self._tops()]

    def pids(self) -> set[int]:
        """Returns every process in any of the cluster's cgroups."""
        found: set[int] = set()
        for directory in self._directories():
            with contextlib.suppress(OSError):
                found.update(map(int, (directory / "cgroup.procs").read_text().split()))
        return found

    def _directories(self) -> Iterator[Path]:
        """Yields all cgroups of the cluster, children before parents."""
        for top in self._tops():
            for path, _, _ in os.walk(top, topdown=False):
                yield Path(path)

    def thaw(self) -> None:
        """Lets frozen processes run, since on v1 they take no signal until then."""
        for directory in self._directories():
            with contextlib.suppress(OSError):
                (directory / "freezer.state").write_text("THAWED")

    def remove(self) -> None:
        """Removes the directories; the kernel may need a moment after the last process."""
        deadline = time.monotonic() + REMOVE_S
        while directories := list(self._directories()):
            for directory in directories:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            if time.monotonic() > deadline:
                raise SlurmError(f"cgroup {directories[-1]} cannot be removed; it is still in use")
            if any(top.exists() for top in self._tops()):
                time.sleep(0.01)
