"""A Slurm in memory: the port for tests and simulations, with what is odd about Slurm 22.05.8.

Types of a GRES pile up in a job's request; a requeued job keeps its node count and starts two
minutes later unless it is told otherwise, and is lost if it starts in the very second of its end;
nothing ends a tenant when its lender ends; no job of an inactive partition can be changed, only
requeued. Slurm itself acts in `advance`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hydro_hpc.errors import SlurmError
from slurm_plugin.marks import is_lender, parse_failure, parse_waiting, parse_wish
from slurm_plugin.slurm import (
    Device,
    Facts,
    Gang,
    JobState,
    Lender,
    Node,
    Pin,
    Placement,
)

REQUEUE_DELAY_S = 121


@dataclass(slots=True, kw_only=True)
class InMemoryJob:
    """A job's record. `asked` is what it will be given, which is more than Slurm shows of it."""

    job_id: int
    is_tenant: bool
    admin_comment: str
    submitted_s: int
    state: JobState
    comment: str = ""
    begin_s: int = 0
    num_requeues: int = 0
    num_nodes: int = 1
    num_tasks: int = 1
    nodes: tuple[str, ...] = ()
    memory_per_cpu_mib: int = 0
    shown: Pin | None = None
    asked: set[int] = field(default_factory=set)
    devices: tuple[Device, ...] = ()


class InMemorySlurm:
    """Nodes and jobs, and a clock that stands still until its owner moves it."""

    def __init__(self, nodes: Iterable[Node], *, partition: str = "bubble") -> None:
        self.nodes = {node.name: node for node in nodes}
        self.jobs: dict[int, InMemoryJob] = {}
        self.partition = partition
        self.partition_state = "up"
        self.now_s = 1_000_000
        self.story: list[str] = []  # the changes made through the port
        self.lost: list[int] = []  # jobs that were started in the second of their old end

    # --- the port -----------------------------------------------------------------------------

    def observe(self) -> Facts:
        jobs = self.jobs.values()
        return Facts(
            partition=self.partition,
            partition_state=self.partition_state,
            nodes=tuple(map(self._with_room, self.nodes.values())),
            lenders=tuple(
                Lender(
                    job_id=job.job_id,
                    state=job.state,
                    devices=job.devices,
                )
                for job in jobs
                if not job.is_tenant and is_lender(job.admin_comment)
            ),
            gangs=tuple(gang for job in jobs if (gang := _gang(job)) is not None),
        )

    def pin(self, job_id: int, placement: Placement, *, mark: str, delay_s: int) -> None:
        job = self._pending(job_id)
        pin = Pin(
            indexes=() if placement.by_count else placement.indexes,
            count=len(placement.indexes),
            nodes=placement.nodes,
        )
        if job.shown is not None and job.shown.is_typed != pin.is_typed:
            raise SlurmError(f"job {job_id}: a request by type cannot become one by count")
        if not job.num_requeues:
            job.num_nodes = len(placement.nodes)
        job.asked = job.asked | set(pin.indexes)
        job.shown, job.nodes, job.num_tasks = pin, placement.nodes, placement.num_tasks
        job.begin_s, job.admin_comment = self.now_s + delay_s, mark
        self.story.append(f"pin {job_id} {placement.gres} on {','.join(placement.nodes)}")

    def release(self, job_id: int) -> None:
        self._pending(job_id).state = JobState.RELEASED
        self.story.append(f"release {job_id}")

    def hold(self, job_id: int) -> None:
        self._pending(job_id).state = JobState.HELD
        self.story.append(f"hold {job_id}")

    def requeue_held(self, job_id: int) -> None:
        self._requeue(job_id, JobState.HELD)
        self.story.append(f"requeue_held {job_id}")

    def mark(self, job_id: int, mark: str) -> None:
        self._changeable(job_id).admin_comment = mark
        self.story.append(f"mark {job_id}")

    # --- users, and Slurm itself --------------------------------------------------------------

    def submit_lender(self, devices: Iterable[Device]) -> int:
        """A primary job that runs at once and lends these devices."""
        job_id = self._submit(is_tenant=False, admin_comment="hydro:lend", state=JobState.RUNNING)
        self.jobs[job_id].devices = tuple(sorted(devices))
        return job_id

    def submit_gang(self, wish: str, *, memory_per_cpu_mib: int = 0) -> int:
        """A held job that wants devices, such as `2` or `2-4`."""
        job_id = self._submit(
            is_tenant=True, admin_comment=f"hydro:want={wish}", state=JobState.HELD
        )
        self.jobs[job_id].memory_per_cpu_mib = memory_per_cpu_mib
        return job_id

    def leave(self, job_id: int, *, reason: str) -> None:
        """A gang that finds no bubble: it reports why, and requeues itself held."""
        job = self._job(job_id)
        last = parse_failure(job.comment)
        job.comment = f"hydro:failed={reason};count={last.count + 1 if last else 1}"
        self._requeue(job_id, JobState.HELD)

    def requeue(self, job_id: int) -> None:
        """What Slurm does when a node fails: the job starts again, two minutes from now."""
        self._requeue(job_id, JobState.RELEASED)

    def end(self, job_id: int) -> None:
        """The job is over, and forgotten."""
        del self.jobs[self._job(job_id).job_id]

    def advance(self, seconds: int = 0) -> None:
        """Moves the clock, then starts every released job that has what it asks for."""
        self.now_s += seconds
        for job in sorted(self.jobs.values(), key=lambda job: job.job_id):
            if job.state is JobState.RELEASED and job.begin_s <= self.now_s:
                devices = self._granted(job)
                if devices is None or self.partition_state != "up":
                    continue
                if job.num_requeues and self.now_s == job.submitted_s:
                    self.lost.append(job.job_id)
                    self.end(job.job_id)
                    continue
                job.state, job.devices = JobState.RUNNING, devices

    def _granted(self, job: InMemoryJob) -> tuple[Device, ...] | None:
        """What Slurm gives: all types ever asked for, or a count; None while it cannot."""
        used = {device for other in self.jobs.values() for device in self._bubbles_of(other)}
        granted: list[Device] = []
        if job.shown is None or job.num_nodes != len(job.nodes):
            return None
        for name in job.nodes:
            node = self.nodes[name]
            free = [index for index in node.devices if Device(name, index) not in used]
            wanted = sorted(job.asked) or free[: job.shown.count]
            is_short = len(wanted) < job.shown.count or not set(wanted) <= set(free)
            tasks = job.num_tasks // len(job.nodes)
            has_room = self._with_room(node).memory_free_mib >= job.memory_per_cpu_mib * tasks
            if node.unusable or is_short or not has_room:
                return None
            granted += [Device(name, index) for index in wanted]
        return tuple(granted)

    def _bubbles_of(self, job: InMemoryJob) -> tuple[Device, ...]:
        return job.devices if job.is_tenant else ()

    def _with_room(self, node: Node) -> Node:
        tasks = [
            job.memory_per_cpu_mib
            for job in self.jobs.values()
            for device in self._bubbles_of(job)
            if device.node == node.name
        ]
        return replace(node, memory_free_mib=node.memory_free_mib - sum(tasks))

    def _submit(self, *, is_tenant: bool, admin_comment: str, state: JobState) -> int:
        job_id = max(self.jobs, default=0) + 1
        self.jobs[job_id] = InMemoryJob(
            job_id=job_id,
            is_tenant=is_tenant,
            admin_comment=admin_comment,
            submitted_s=self.now_s,
            state=state,
        )
        return job_id

    def _requeue(self, job_id: int, state: JobState) -> None:
        job = self._job(job_id)
        if job.state is not JobState.RUNNING:
            raise SlurmError(f"job {job_id} does not run, so it cannot be requeued")
        job.state, job.devices = state, ()
        job.num_requeues += 1
        job.submitted_s, job.begin_s = self.now_s, self.now_s + REQUEUE_DELAY_S

    def _job(self, job_id: int) -> InMemoryJob:
        if job_id not in self.jobs:
            raise SlurmError(f"job {job_id} is not known to Slurm; it may have ended")
        return self.jobs[job_id]

    def _changeable(self, job_id: int) -> InMemoryJob:
        job = self._job(job_id)
        if self.partition_state == "inactive":
            raise SlurmError(f"job {job_id} cannot be changed while its partition is inactive")
        return job

    def _pending(self, job_id: int) -> InMemoryJob:
        job = self._changeable(job_id)
        if job.state not in (JobState.HELD, JobState.RELEASED):
            raise SlurmError(f"job {job_id} is not pending any more")
        return job


def _gang(job: InMemoryJob) -> Gang | None:
    wish = parse_wish(job.admin_comment) if job.is_tenant else None
    if wish is None:
        return None
    return Gang(
        job_id=job.job_id,
        state=job.state,
        wish=wish,
        waiting=parse_waiting(job.admin_comment),
        submitted_s=job.submitted_s,
        begin_s=job.begin_s,
        num_requeues=job.num_requeues,
        num_nodes=job.num_nodes,
        pin=job.shown,
        devices=job.devices,
        failure=parse_failure(job.comment),
        memory_per_cpu_mib=job.memory_per_cpu_mib,
    )
