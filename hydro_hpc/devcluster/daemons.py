"""Which daemons make a cluster, in the order in which they start."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from hydro_hpc.devcluster.slurm_conf import SLURM_USER
from hydro_hpc.devcluster.spec import LOGIN, ClusterSpec, Layout

MUNGED: Final = "munged"
SLURMCTLD: Final = "slurmctld"
COORDINATOR: Final = "coordinator"
COORDINATOR_PERIOD_S: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One process to start in the namespace of `member`, as root or as `user`."""

    name: str
    member: str
    argv: tuple[str, ...]
    user: str = ""


def slurmd_of(node: str) -> str:
    return f"slurmd.{node}"


def list_daemons(spec: ClusterSpec) -> list[Daemon]:
    layout = Layout(spec.directory)
    munged = (
        "munged",
        "--foreground",
        f"--key-file={layout.munge_key}",
        f"--socket={layout.munge_socket}",
        f"--pid-file={layout.munge}/pid",
        f"--seed-file={layout.munge}/seed",
        f"--log-file={layout.log}/munged.log",
    )
    coordinator = (
        *(sys.executable, "-I", "-m", "slurm_plugin.coordinator"),
        f"--period={COORDINATOR_PERIOD_S}",
        f"--lock={layout.controller}/coordinator.lock",
    )
    return [
        Daemon(name=MUNGED, member=LOGIN, argv=munged),
        Daemon(name=SLURMCTLD, member=LOGIN, argv=("slurmctld", "-D")),
        *[
            Daemon(name=slurmd_of(node), member=node, argv=("slurmd", "-D", "-N", node))
            for node in spec.node_names
        ],
        Daemon(name=COORDINATOR, member=LOGIN, argv=coordinator, user=SLURM_USER),
    ]
