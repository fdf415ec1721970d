"""What an embedded cluster is: how many nodes and devices, where its files are, how it is doing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hydro_hpc.errors import ConfigError

DEFAULT_DIRECTORY: Final = Path("/var/lib/hydro-cluster")
LOGIN: Final = "login"  # the namespace of slurmctld, of the coordinator and of users who log in
PAGE_DIR: Final = "/run/hydro"  # as seen inside a node; no other namespace has it
USERS: Final = ("alice", "bob")
MAX_NODES: Final = 32
MAX_DEVICES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """What `Cluster.up` makes. Raises ConfigError if it cannot be made."""

    nodes: int = 2
    devices_per_node: int = 1
    directory: Path = DEFAULT_DIRECTORY  # root's own; removed by `down`
    first_port: int = 0  # slurmctld's; the nodes' follow. 0 = whichever are free

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise ConfigError(
                f"a cluster of {self.nodes} nodes cannot be made; ask for 1-{MAX_NODES}"
            )
        if not 1 <= self.devices_per_node <= MAX_DEVICES:
            raise ConfigError(
                f"a node with {self.devices_per_node} devices cannot be made; "
                f"ask for 1-{MAX_DEVICES}"
            )
        if not self.directory.is_absolute() or any(c.isspace() for c in str(self.directory)):
            raise ConfigError(
                f"the cluster's directory {str(self.directory)!r} has to be an absolute path "
                "without blanks; choose another"
            )

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def cgroup_name(self) -> str:
        """The directory of this cluster in every cgroup hierarchy, known without any state file."""
        return f"hydro-{hashlib.sha256(str(self.directory).encode()).hexdigest()[:10]}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of a cluster are. The same paths inside and outside of its namespaces."""

    root: Path

    @property
    def state_file(self) -> Path:
        return self.root / "cluster.json"

    @property
    def etc(self) -> Path:
        """Becomes /etc/slurm in every namespace."""
        return self.root / "etc"

    @property
    def host_etc(self) -> Path:
        """passwd, group, hosts and nsswitch.conf of the namespaces."""
        return self.root / "host_etc"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def munge(self) -> Path:
        return self.root / "munge"

    @property
    def munge_socket(self) -> Path:
        return self.munge / "socket"

    @property
    def munge_key(self) -> Path:
        return self.munge / "key"

    @property
    def controller(self) -> Path:
        """slurmctld's own directory, of SlurmUser."""
        return self.root / "controller"

    @property
    def slurm_state(self) -> Path:
        return self.controller / "state"

    @property
    def homes(self) -> Path:
        return self.root / "home"

    def home(self, user: str) -> Path:
        return self.homes / user

    def node(self, name: str) -> Path:
        return self.root / "nodes" / name

    def lanes_conf(self, node: str) -> Path:
        return self.node(node) / "lanes.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """What `hydro cluster status` shows. `stale`: some of its processes are gone; `up` mends it."""

    state: Literal["up", "down", "stale"]
    directory: Path
    slurm_version: str = ""
    nodes: dict[str, str]  # name -> Slurm's state, e.g. "idle"
    processes: dict[str, int]  # name -> pid, of those that run
    missing: list[str]  # names of processes that are recorded and do not run
    not_enforced: list[str]  # one sentence for each thing that this kernel cannot enforce
