"""The cluster's state file: which cluster this is and which processes belong to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from hydro_hpc.atomic_write import write_text
from hydro_hpc.devcluster.spec import ClusterSpec, Layout
from hydro_hpc.errors import ConfigError
from hydro_hpc.identity import Identity, is_alive

SCHEMA = 1


@dataclass(slots=True, kw_only=True)
class ClusterState:
    """Written after each process start, so that whatever was started can be found and ended."""

    spec: ClusterSpec
    slurm_version: str = ""
    is_complete: bool = False  # `up` came to its end
    ports: list[int] = field(default_factory=list)  # slurmctld's, then one per node
    not_enforced: list[str] = field(default_factory=list)
    processes: dict[str, Identity] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Returns the names of recorded processes that do not run."""
        return [name for name, identity in self.processes.items() if not is_alive(identity)]

    def running(self) -> list[str]:
        return [name for name, identity in self.processes.items() if is_alive(identity)]

    def save(self) -> None:
        path = Layout(self.spec.directory).state_file
        text = json.dumps(
            {
                "schema": SCHEMA,
                "nodes": self.spec.nodes,
                "devices_per_node": self.spec.devices_per_node,
                "first_port": self.spec.first_port,
                "slurm_version": self.slurm_version,
                "is_complete": self.is_complete,
                "ports": self.ports,
                "not_enforced": self.not_enforced,
                "processes": {
                    name: [who.pid, who.boot_id.hex(), who.start_ticks]
                    for name, who in self.processes.items()
                },
            }
        )
        write_text(path, text)


def load_state(directory: Path) -> ClusterState | None:
    """Returns the state of the cluster in `directory`, or None if there is no cluster.

    Raises ConfigError if the file is not a cluster's, or another version's.
    """
    path = Layout(directory).state_file
    try:
        data = json.loads(path.read_text())
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}, not {SCHEMA}")
        return ClusterState(
            spec=ClusterSpec(
                nodes=data["nodes"],
                devices_per_node=data["devices_per_node"],
                first_port=data["first_port"],
                directory=directory,
            ),
            slurm_version=data["slurm_version"],
            is_complete=data["is_complete"],
            ports=data["ports"],
            not_enforced=data["not_enforced"],
            processes={
                name: Identity(pid, bytes.fromhex(boot_id), ticks)
                for name, (pid, boot_id, ticks) in data["processes"].items()
            },
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a state file of this release ({error}); if {directory} held a cluster, "
            f"remove it with: rm -r {directory}"
        ) from None
