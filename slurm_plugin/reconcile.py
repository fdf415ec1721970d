"""Pure: Slurm's facts and what was seen before -> what to do now.

Level-triggered: everything is decided from the facts of this moment, so a coordinator that died
between any two actions is followed by one that goes on from what it finds. Only how long something
has looked wrong is remembered; forgetting it makes the coordinator patient once more, nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from slurm_plugin.eligibility import Survey, lender_devices, pinned_devices, room_refusal, survey
from slurm_plugin.marks import print_gang_mark
from slurm_plugin.placement import Decision, Patience, Placed, plan
from slurm_plugin.slurm import RESTART_DELAY_S, Facts, Gang, JobState, Placement

MAX_REQUEUE_DELAY_S: Final = 10  # a longer one is Slurm's own and is shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class PinGang:
    """Asks for these devices; the job stays held or released as it is."""

    job_id: int
    placement: Placement
    mark: str
    delay_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseGang:
    job_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldGang:
    """Calls a released gang back before it starts: its place is not to be had any more."""

    job_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueGang:
    """Ends a running gang that sits on a device that nobody lends, and holds it."""

    job_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkGang:
    """Tells a gang's user why it waits."""

    job_id: int
    mark: str
    reason: str


Action = PinGang | ReleaseGang | HoldGang | RequeueGang | MarkGang


@dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """How long something may look wrong before it is acted on, in seconds."""

    unlent_s: float = 30.0  # a running gang on a device without lender; it should leave by itself
    stranded_s: float = 5.0  # a released gang whose place is not to be had any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Since when each job has looked wrong."""

    since_s: Mapping[int, float] = field(default_factory=dict)


def reconcile(
    facts: Facts,
    memory: Memory,
    *,
    now_s: float,
    patience: Patience,
    grace: Grace,
) -> tuple[Memory, list[Action]]:
    """Returns what to remember and what to do, in this order."""
    lent = survey(facts)
    unlent = [gang.job_id for gang in facts.gangs if _is_unlent(gang, facts)]
    stranded = [gang.job_id for gang in facts.gangs if _is_stranded(gang, lent, facts)]
    since_s = {job: memory.since_s.get(job, now_s) for job in (*unlent, *stranded)}
    actions: list[Action] = [
        RequeueGang(job_id=job) for job in sorted(unlent) if now_s - since_s[job] >= grace.unlent_s
    ]
    if facts.partition_state == "inactive":  # Slurm (22.05.8) changes none of its pending jobs
        return Memory(since_s=since_s), actions
    actions += [
        HoldGang(job_id=job) for job in sorted(stranded) if now_s - since_s[job] >= grace.stranded_s
    ]
    for decision in plan(facts, lent, now_s=now_s, patience=patience):
        actions += _actions_of(decision)
    actions += _hastened(facts, stranded, now_s=now_s)
    return Memory(since_s=since_s), actions


def _actions_of(decision: Decision) -> list[Action]:
    gang = decision.gang
    if isinstance(decision, Placed):
        return [_pin(gang, decision.placement), ReleaseGang(job_id=gang.job_id)]
    mark = print_gang_mark(gang.wish, decision.reason)
    if mark == print_gang_mark(gang.wish, gang.waiting):
        return []
    return [MarkGang(job_id=gang.job_id, mark=mark, reason=decision.reason)]


def _pin(gang: Gang, placement: Placement) -> PinGang:
    return PinGang(
        job_id=gang.job_id,
        placement=placement,
        mark=print_gang_mark(gang.wish),
        delay_s=RESTART_DELAY_S if gang.num_requeues else 0,
    )


def _hastened(facts: Facts, stranded: list[int], *, now_s: float) -> list[Action]:
    """Pins anew, to start soon, the gangs that Slurm itself requeued to start in two minutes."""
    devices_of = {node.name: node.devices for node in facts.nodes}
    actions: list[Action] = []
    for gang in sorted(facts.gangs, key=lambda gang: gang.job_id):
        is_requeued = gang.state is JobState.RELEASED and gang.num_requeues
        is_delayed = gang.begin_s - now_s > MAX_REQUEUE_DELAY_S
        if not (is_requeued and is_delayed) or gang.job_id in stranded or gang.pin is None:
            continue
        nodes = tuple(sorted(gang.pin.nodes))
        indexes = gang.pin.indexes or devices_of[nodes[0]]
        placement = Placement(
            nodes=nodes,
            indexes=indexes,
            by_count=not gang.pin.is_typed,
            cpus_per_task=gang.cpus_per_task,
        )
        actions.append(_pin(gang, placement))
    return actions


def _is_unlent(gang: Gang, facts: Facts) -> bool:
    """Says whether a running gang holds a device that no job lends."""
    is_running = gang.state is JobState.RUNNING
    return is_running and not lender_devices(facts).issuperset(gang.devices)


def _is_stranded(gang: Gang, lent: Survey, facts: Facts) -> bool:
    """Says whether a released gang waits for a place that it should not get, or cannot.

    While one does, Slurm keeps others of the partition from those nodes.
    """
    if gang.state is not JobState.RELEASED:
        return False
    nodes = {node.name: node for node in facts.nodes}
    devices = pinned_devices(gang, {name: node.devices for name, node in nodes.items()})
    is_lent = all(device in lent.lent and lent.taken[device] == gang.job_id for device in devices)
    if not devices or not is_lent:
        return True
    tasks = Counter(device.node for device in devices)
    return any(room_refusal(gang, nodes[name], tasks=tasks[name]) for name in tasks)
