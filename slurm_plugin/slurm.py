"""The port to Slurm: the facts that the coordinator decides from, and the few things that it does.

All facts are Slurm's own (job and node records); nothing here or behind it reads a node's files.
Times are Unix seconds, memory is MiB. Node and job order is never meaningful: readers sort.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from slurm_plugin.gres import counted_bubbles, typed_bubbles
from slurm_plugin.marks import Failure, Wish

# A requeued job whose new start falls into the second of its old end is lost: its credential counts
# as revoked and Slurm (22.05.8) fails the job. By itself Slurm waits for two minutes.
RESTART_DELAY_S: Final = 2


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """One device of one node."""

    node: str
    index: int

    def __str__(self) -> str:
        return f"{self.node}/{self.index}"


class JobState(Enum):
    """Where a job is in its life, as far as placing matters."""

    HELD = auto()  # pending, priority 0
    RELEASED = auto()  # pending, Slurm starts it when it can
    RUNNING = auto()
    SUSPENDED = auto()  # keeps its devices
    CHANGING = auto()  # is being set up, or its processes are not all gone yet; keeps its devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Which devices a gang's request names: certain ones on every node, or a count of them.

    Slurm (22.05.8) adds each new type to those that it was asked for before, whether the job has
    run or not, and shows only the last: so a typed pin is for ever. A counted one cannot become
    typed, nor the reverse.
    """

    indexes: tuple[int, ...] = ()  # empty: by count
    count: int = 0  # devices per node
    nodes: tuple[str, ...] = ()

    @property
    def is_typed(self) -> bool:
        return bool(self.indexes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a gang shall run: the same device indexes on each node, one task per device."""

    nodes: tuple[str, ...]
    indexes: tuple[int, ...]
    by_count: bool  # the request names a number of devices; only where all of a node's are meant
    cpus_per_task: int = 1

    @property
    def gres(self) -> str:
        """What is asked for on each node."""
        return counted_bubbles(len(self.indexes)) if self.by_count else typed_bubbles(self.indexes)

    @property
    def num_tasks(self) -> int:
        return len(self.nodes) * len(self.indexes)

    @property
    def cpus_per_node(self) -> int:
        """Asked for on each node, or Slurm would spread the tasks unevenly."""
        return len(self.indexes) * self.cpus_per_task

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(Device(node, index) for node in self.nodes for index in self.indexes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the tenant partition."""

    name: str
    devices: tuple[int, ...]  # that the GRES `bubble` names, sorted
    unusable: str = ""  # why no job starts there now; empty: one can
    cpus_free: int
    memory_free_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lender:
    """A job that lends its bubbles. `devices` is None where Slurm does not tell their indexes."""

    job_id: int
    state: JobState
    devices: tuple[Device, ...] | None = ()
    is_exclusive: bool = False  # shares its nodes with no other job, or no other user's


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """A job of the tenant partition that wants devices of others' bubbles."""

    job_id: int
    state: JobState
    wish: Wish
    waiting: str = ""  # the reason that its user reads now
    submitted_s: int  # Slurm sets it anew at every requeue
    begin_s: int = 0  # not to start before; 0: at any time
    num_requeues: int = 0
    num_nodes: int = 1
    pin: Pin | None = None
    devices: tuple[Device, ...] = ()  # that Slurm granted it; empty while it is pending
    failure: Failure | None = None
    unplaceable: str = ""  # why a job of this kind is never placed; empty: it can be
    dependency: str = ""  # unfulfilled
    excluded_nodes: tuple[str, ...] = ()
    cpus_per_task: int = 1
    memory_per_cpu_mib: int = 0  # 0: not asked for by CPU
    memory_per_node_mib: int = 0  # 0: not asked for by node

    def memory_mib(self, tasks_per_node: int) -> int:
        """What it needs on a node with that many of its tasks."""
        by_cpu = self.memory_per_cpu_mib * self.cpus_per_task * tasks_per_node
        return max(by_cpu, self.memory_per_node_mib)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One look at Slurm. Ended jobs are not in it, nor those without a part in bubbles."""

    partition: str  # the tenant partition's name
    partition_state: str  # `up`, `down`, `drain` or `inactive`
    nodes: tuple[Node, ...] = ()
    lenders: tuple[Lender, ...] = ()
    gangs: tuple[Gang, ...] = ()
    others: tuple[Device, ...] = ()  # bubble devices that jobs hold which are no gangs


class Slurm(Protocol):
    """What the coordinator needs of Slurm. Every method raises SlurmError, of one sentence.

    Each method is one change in Slurm that happens or does not; doing it twice is as doing it once.
    """

    def observe(self) -> Facts:
        """Returns how things are now."""
        ...

    def pin(self, job_id: int, placement: Placement, *, mark: str, delay_s: int) -> None:
        """Asks for these devices for a pending job, not to start before `delay_s` from now.

        `mark` becomes its admin comment. A held job stays held. A job that ran before needs a delay
        of `RESTART_DELAY_S`.
        """
        ...

    def release(self, job_id: int) -> None:
        """Lets Slurm start a held job."""
        ...

    def hold(self, job_id: int) -> None:
        """Keeps a pending job from starting; its pin stays."""
        ...

    def requeue_held(self, job_id: int) -> None:
        """Ends a running job's processes and puts it back among the held ones."""
        ...

    def mark(self, job_id: int, mark: str) -> None:
        """Writes a job's admin comment, which its user reads in `scontrol show job`."""
        ...
