"""Facts of a cluster for tests of placement, and the plan for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from slurm_plugin.eligibility import survey
from slurm_plugin.marks import Wish
from slurm_plugin.placement import Decision, Patience, plan
from slurm_plugin.slurm import Device, Facts, Gang, JobState, Lender, Node

NOW_S = 1_000_000
PATIENCE = Patience(first_delay_s=5, longest_delay_s=300, hoards_after_s=600)


def node(name: str, devices: int = 1, *, memory_free_mib: int = 1000) -> Node:
    return Node(
        name=name,
        devices=tuple(range(devices)),
        cpus_free=16,
        memory_free_mib=memory_free_mib,
    )


def lender(job_id: int, *devices: str) -> Lender:
    pairs = [device.split("/") for device in devices]
    return Lender(
        job_id=job_id,
        state=JobState.RUNNING,
        devices=tuple(Device(name, int(index)) for name, index in pairs),
    )


def gang(job_id: int, low: int, high: int = 0, **changes: object) -> Gang:
    held = Gang(
        job_id=job_id,
        state=JobState.HELD,
        wish=Wish(low=low, high=high or low),
        submitted_s=NOW_S,
    )
    return replace(held, **changes)  # type: ignore[arg-type]


def facts(nodes: Iterable[Node], lenders: Iterable[Lender], *gangs: Gang) -> Facts:
    return Facts(
        partition="bubble",
        partition_state="up",
        nodes=tuple(nodes),
        lenders=tuple(lenders),
        gangs=gangs,
    )


def decide(seen: Facts, *, now_s: float = NOW_S) -> list[Decision]:
    return plan(seen, survey(seen), now_s=now_s, patience=PATIENCE)
