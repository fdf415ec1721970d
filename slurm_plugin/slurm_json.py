"""Pure: the JSON of Slurm's job and node records -> facts. Written against Slurm 22.05.8.

A job is a gang only in the tenant partition and a lender only outside of it, and both only by
their admin comment. Names, comments and paths are their users' text and are not looked at, the
comment of a gang aside. Text that a user chose cannot make the whole unreadable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from slurm_plugin.gres import BUBBLE, GPU, device_indexes, parse_gres
from slurm_plugin.hostlist import expand_hostlist
from slurm_plugin.marks import is_lender, parse_failure, parse_waiting, parse_wish
from slurm_plugin.slurm import Device, Facts, Gang, JobState, Lender, Node, Pin

_T = TypeVar("_T")
_PENDING: Final = frozenset({"PENDING", "SPECIAL_EXIT"})
_STATES: Final = {
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    "CONFIGURING": JobState.CHANGING,
    "COMPLETING": JobState.CHANGING,
    "REQUEUED": JobState.CHANGING,
    "REQUEUE_HOLD": JobState.CHANGING,
    "RESIZING": JobState.CHANGING,
    "SIGNALING": JobState.CHANGING,
    "STAGE_OUT": JobState.CHANGING,
}
_EXCLUSIVE: Final = frozenset({"none", "user", "mcs"})  # sbatch --exclusive
_USABLE_STATES: Final = frozenset({"idle", "mixed", "allocated"})
_HARMLESS_FLAGS: Final = frozenset({"COMPLETING", "PLANNED", "CLOUD", "DYNAMIC_NORM"})


class FormatError(Exception):
    """The JSON is not what this Slurm's release writes. The text names the record and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """A partition's availability (`up`, `inactive`, …) and whether its CPUs are shared."""

    state: str
    is_shared: bool


class _Record:
    """A job or node record whose fields are checked as they are read."""

    def __init__(self, values: Any, *, what: str, key: str) -> None:
        if not isinstance(values, dict) or key not in values:
            raise FormatError(f"a {what} record without {key!r}")
        self._values = values
        self._name = f"{what} {values[key]!r}"

    def text(self, field: str) -> str:
        return self._checked(field, str)

    def optional_text(self, field: str) -> str:
        """A text; empty where Slurm writes null for "not set"."""
        return "" if self._values.get(field) is None else self.text(field)

    def number(self, field: str) -> int:
        """A whole number; 0 where Slurm writes null for "not set"."""
        return 0 if self._values.get(field) is None else self._checked(field, int)

    def texts(self, field: str) -> list[str]:
        found = self._checked(field, list)
        if not all(isinstance(text, str) for text in found):
            raise FormatError(f"field {field!r} of {self._name} holds other things than text")
        return found

    def _checked(self, field: str, kind: type[_T]) -> _T:
        found = self._values.get(field)
        if not isinstance(found, kind) or isinstance(found, bool):
            raise FormatError(f"field {field!r} of {self._name} is not a {kind.__name__}")
        return found


def read_facts(
    jobs: Sequence[Any],
    nodes: Sequence[Any],
    partitions: Mapping[str, PartitionState],
    *,
    partition: str,
) -> Facts:
    """Returns the facts in `squeue --json` and `sinfo --json`. Raises FormatError."""
    tenants = partitions.get(partition)
    living = [job for job in map(_Job, jobs) if job.state is not None]
    gangs = {job.job_id: gang for job in living if (gang := _read_gang(job, partition))}
    lenders = [_read_lender(job) for job in living if _lends(job, partition)]
    shared = {name for name, state in partitions.items() if state.is_shared}
    return Facts(
        partition=partition,
        partition_state=tenants.state if tenants else "not there",
        nodes=tuple(_read_nodes(nodes, living, partition, shared)),
        lenders=tuple(lenders),
        gangs=tuple(gangs.values()),
        others=tuple(d for job in living if job.job_id not in gangs for d in job.bubbles()),
    )


class _Job(_Record):
    """A job record."""

    def __init__(self, values: Any) -> None:
        super().__init__(values, what="job", key="job_id")
        self.job_id = self.number("job_id")
        self.partition = self.text("partition")
        self.state = self._read_state()

    def _read_state(self) -> JobState | None:
        """None: it has ended."""
        name = self.text("job_state")
        if name in _PENDING:
            return JobState.RELEASED if self.number("priority") else JobState.HELD
        return _STATES.get(name)

    def devices(self, gres: str) -> tuple[Device, ...] | None:
        """Returns its devices of a GRES; None if Slurm does not tell them."""
        details, nodes = self.texts("gres_detail"), self.nodes()
        found: list[Device] = []
        if details and len(details) != len(nodes):
            return None
        for node, detail in zip(nodes, details, strict=False):
            try:
                indexes = device_indexes(parse_gres(detail), gres)
            except ValueError:
                return None
            if indexes is None:
                return None
            found += [Device(node, index) for index in indexes]
        return tuple(found)

    def bubbles(self) -> tuple[Device, ...]:
        """The bubble devices granted to it; while it completes, those that it asked for."""
        found = self.devices(BUBBLE)
        pin = self.pin()
        if found or pin is None or self.state not in _STATES.values():
            return found or ()
        return tuple(Device(node, index) for node in pin.nodes for index in pin.indexes)

    def pin(self) -> Pin | None:
        """The bubble devices that it asks for; None if it asks for none, or not readably."""
        try:
            items = [i for i in parse_gres(self.text("tres_per_node")) if i.name == BUBBLE]
            nodes = expand_hostlist(self.text("nodes") or self.text("required_nodes"))
        except ValueError:
            return None
        indexes = tuple(sorted(i.device_index for i in items if i.device_index is not None))
        count = sum(item.count for item in items)
        return Pin(indexes=indexes, count=count, nodes=nodes) if items else None

    def nodes(self) -> list[str]:
        """Returns the nodes that it has, in the order of `gres_detail`."""
        resources = self._values.get("job_resources") or {}
        try:
            return [str(node["nodename"]) for node in resources.get("allocated_nodes", ())]
        except (KeyError, TypeError, AttributeError):
            raise FormatError(f"field 'job_resources' of job {self.job_id} is not known") from None


def _lends(job: _Job, partition: str) -> bool:
    return job.partition != partition and is_lender(job.text("admin_comment"))


def _read_lender(job: _Job) -> Lender:
    assert job.state is not None
    return Lender(
        job_id=job.job_id,
        state=job.state,
        devices=job.devices(GPU),
        is_exclusive=job.optional_text("shared") in _EXCLUSIVE,
    )


def _read_gang(job: _Job, partition: str) -> Gang | None:
    mark = job.text("admin_comment")
    wish = parse_wish(mark) if job.partition == partition else None
    if wish is None:
        return None
    assert job.state is not None
    try:
        excluded_nodes, unreadable = expand_hostlist(job.text("excluded_nodes")), ""
    except ValueError as error:
        excluded_nodes, unreadable = (), f"its excluded nodes cannot be read ({error})"
    return Gang(
        job_id=job.job_id,
        state=job.state,
        wish=wish,
        waiting=parse_waiting(mark),
        submitted_s=job.number("submit_time"),
        begin_s=job.number("eligible_time"),
        num_requeues=job.number("restart_cnt"),
        num_nodes=job.number("node_count"),
        pin=job.pin(),
        devices=job.bubbles(),
        failure=parse_failure(job.text("comment")),
        unplaceable=_unplaceable(job) or unreadable,
        dependency=_unfulfilled(job.text("dependency")),
        excluded_nodes=excluded_nodes,
        cpus_per_task=max(1, job.number("cpus_per_task")),
        memory_per_cpu_mib=job.number("memory_per_cpu"),
        memory_per_node_mib=job.number("memory_per_node"),
    )


def _unplaceable(job: _Job) -> str:
    if job.number("array_job_id"):
        return "a job array cannot be placed in bubbles; submit one job, a study has many trials"
    if job.number("het_job_id"):
        return "a heterogeneous job cannot be placed in bubbles; submit an ordinary one"
    return ""


def _unfulfilled(dependency: str) -> str:
    """Returns the parts of a dependency that still keep the job from starting."""
    waits = [part for part in dependency.split(",") if part.endswith(("(unfulfilled)", "(failed)"))]
    return ",".join(waits)


def _read_nodes(
    nodes: Sequence[Any], living: Sequence[_Job], partition: str, shared: set[str]
) -> Iterator[Node]:
    """Yields the nodes of the tenant partition."""
    is_shared = partition in shared
    strangers = {
        name: f"used by job {job.job_id} of partition {job.partition}, which does not share nodes "
        f"with partition {partition} (all or none of them need OverSubscribe=FORCE)"
        for job in living
        if (job.partition in shared) != is_shared
        for name in job.nodes()
    }
    for values in nodes:
        node = _Record(values, what="node", key="name")
        if partition not in node.texts("partitions"):
            continue
        name = node.text("name")
        devices, unusable = _read_devices(node.text("gres"))
        yield Node(
            name=name,
            devices=devices,
            unusable=_unusable(node) or unusable or strangers.get(name, ""),
            cpus_free=node.number("cpus" if is_shared else "idle_cpus"),
            memory_free_mib=node.number("real_memory") - node.number("alloc_memory"),
        )


def _read_devices(gres: str) -> tuple[tuple[int, ...], str]:
    """Returns a node's bubble devices, or none and why they cannot be told."""
    try:
        devices = device_indexes(parse_gres(gres), BUBBLE)
    except ValueError as error:
        return (), f"without a readable Gres ({error})"
    if devices is None:
        return (), "without a type per bubble (gres.conf: Name=bubble Type=g0 …)"
    return devices, ""


def _unusable(node: _Record) -> str:
    """Returns why Slurm starts nothing on a node, such as `down` or `idle+drain`; else ''."""
    state = node.text("state")
    flags = [flag for flag in node.texts("state_flags") if flag not in _HARMLESS_FLAGS]
    return "" if state in _USABLE_STATES and not flags else "+".join([state, *flags]).lower()
