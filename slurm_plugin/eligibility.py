"""Pure: Slurm's facts -> the devices that a gang may be given, or why one may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from slurm_plugin.slurm import Device, Facts, Gang, JobState, Lender, Node

OTHERS: Final = 0  # stands for the holder of a device that is no gang


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Which devices are lent and which of those are taken."""

    lent: Mapping[Device, int]  # -> the lender's job id
    taken: Mapping[Device, int]  # -> the holder's job id
    refusals: tuple[str, ...]  # one reason for each node or job that looked as if it lent

    @property
    def free(self) -> dict[Device, int]:
        """The devices that a gang may be given now -> the lender's job id."""
        return {d: lender for d, lender in self.lent.items() if d not in self.taken}


def survey(facts: Facts) -> Survey:
    """Returns the eligible devices of all lenders. Deterministic: sorted by job, then device."""
    taken = taken_devices(facts)
    lent: dict[Device, int] = {}
    refusals: list[str] = []
    if facts.partition_state != "up":
        refusals.append(f"partition {facts.partition} is {facts.partition_state}")
        return Survey(lent=lent, taken=taken, refusals=tuple(refusals))
    nodes = {node.name: node for node in facts.nodes}
    for lender in sorted(facts.lenders, key=lambda lender: lender.job_id):
        reason = _lender_refusal(lender)
        if reason:
            refusals.append(reason)
            continue
        for device in sorted(lender.devices or ()):
            reason = _device_refusal(device, nodes.get(device.node), facts.partition)
            if not reason:
                lent[device] = lender.job_id
            elif reason not in refusals:
                refusals.append(reason)
    return Survey(lent=lent, taken=taken, refusals=tuple(refusals))


def lender_devices(facts: Facts) -> frozenset[Device]:
    """Returns every device of a job that lends and has not begun to end, its node usable or not."""
    keeps = {JobState.RUNNING, JobState.SUSPENDED}
    lenders = [lender for lender in facts.lenders if lender.state in keeps]
    return frozenset(d for lender in lenders for d in lender.devices or ())


def taken_devices(facts: Facts) -> dict[Device, int]:
    """Returns which devices a gang holds or is about to be started on -> its job id."""
    taken = dict.fromkeys(facts.others, OTHERS)
    counts = {node.name: node.devices for node in facts.nodes}
    holders = [gang for gang in facts.gangs if gang.state is not JobState.HELD]
    # The last one wins: who has it already before who waits for it, then the elder.
    holders.sort(key=lambda gang: (gang.state is not JobState.RELEASED, -gang.job_id))
    for gang in holders:
        taken |= dict.fromkeys(gang.devices or pinned_devices(gang, counts), gang.job_id)
    return taken


def pinned_devices(gang: Gang, devices_of: Mapping[str, tuple[int, ...]]) -> tuple[Device, ...]:
    """Returns the devices that a gang's request names; by count, all of each node's."""
    if gang.pin is None:
        return ()
    return tuple(
        Device(node, index)
        for node in gang.pin.nodes
        for index in gang.pin.indexes or devices_of.get(node, ())
    )


def room_refusal(gang: Gang, node: Node, *, tasks: int, reserved_mib: int = 0) -> str:
    """Returns why a node has no room for so many tasks of a gang, else ''.

    `reserved_mib` is promised to gangs that do not run there yet.
    """
    if node.name in gang.excluded_nodes:
        return f"{node.name} is excluded by the job"
    needed_mib = gang.memory_mib(tasks)
    left_mib = max(0, node.memory_free_mib - reserved_mib)
    if needed_mib > left_mib:
        return f"{node.name} has {left_mib} MiB of memory left and the gang needs {needed_mib}"
    if tasks * gang.cpus_per_task > node.cpus_free:
        needed = tasks * gang.cpus_per_task
        return f"{node.name} has {node.cpus_free} CPUs left and the gang needs {needed}"
    return ""


def _lender_refusal(lender: Lender) -> str:
    if lender.state is JobState.SUSPENDED:
        return f"job {lender.job_id} lends but is suspended"
    if lender.state is not JobState.RUNNING:
        return f"job {lender.job_id} lends but does not run"
    if lender.is_exclusive:
        return f"job {lender.job_id} lends but was submitted with --exclusive, which shares nothing"
    if lender.devices is None:
        return f"job {lender.job_id} lends but Slurm does not tell its device indexes"
    if not lender.devices:
        return f"job {lender.job_id} lends but holds no device"
    return ""


def _device_refusal(device: Device, node: Node | None, partition: str) -> str:
    if node is None:
        return f"{device.node} is not in partition {partition}"
    if node.unusable:
        return f"{node.name} is {node.unusable}"
    if device.index not in node.devices:
        return f"{node.name} has no bubble:g{device.index}"
    return ""
