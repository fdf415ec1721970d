"""Where lanes are: on this node, or on the nodes of an embedded cluster of this host."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from hydro_hpc.devcluster.spec import PAGE_DIR
from hydro_hpc.devcluster.state import ClusterState
from hydro_hpc.owner_word import DEFAULT_PAGE_DIR


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePlace:
    """One device of one node, and where its lane is when it has one."""

    node: str
    device: int
    path: str


def lanes_below(page_dir: Path, *, node: str) -> list[LanePlace]:
    """Returns the lanes that are there now, in order of their devices."""
    if not page_dir.is_dir():
        return []
    found = [re.fullmatch(r"gpu(\d+)", entry.name) for entry in page_dir.iterdir()]
    devices = sorted(int(match[1]) for match in found if match)
    return [LanePlace(node=node, device=d, path=str(page_dir / f"gpu{d}")) for d in devices]


def lanes_here() -> list[LanePlace]:
    """Returns the lanes of the node that this process is on."""
    page_dir = Path(os.environ.get("HYDRO_PAGE_DIR", DEFAULT_PAGE_DIR))
    return lanes_below(page_dir, node=socket.gethostname())


def cluster_lanes(cluster: ClusterState) -> list[LanePlace]:
    """Returns a place for every device of a running embedded cluster, lent or not.

    Root can look into a node's mounts through the process that holds them.
    """
    spec = cluster.spec
    return [
        LanePlace(
            node=node,
            device=device,
            path=f"/proc/{cluster.processes[node].pid}/root{PAGE_DIR}/gpu{device}",
        )
        for node in spec.node_names
        for device in range(spec.devices_per_node)
    ]
