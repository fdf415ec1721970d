"""Which devices a gang may be given, and why others not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurm_plugin.eligibility import OTHERS, lender_devices, room_refusal, survey
from slurm_plugin.marks import Wish
from slurm_plugin.slurm import Device, Facts, Gang, JobState, Lender, Node, Pin

N1, N2 = (
    Node(name=name, devices=(0, 1), cpus_free=8, memory_free_mib=1000) for name in ("n1", "n2")
)
LENDER = Lender(
    job_id=1, state=JobState.RUNNING, devices=(Device("n1", 0), Device("n1", 1), Device("n2", 0))
)
GANG = Gang(
    job_id=7,
    state=JobState.RUNNING,
    wish=Wish(low=1, high=1),
    submitted_s=0,
    devices=(Device("n1", 0),),
)
FACTS = Facts(partition="bubble", partition_state="up", nodes=(N1, N2), lenders=(LENDER,))


def test_every_device_of_a_running_lender_is_free() -> None:
    assert survey(FACTS).free == {Device("n1", 0): 1, Device("n1", 1): 1, Device("n2", 0): 1}


@pytest.mark.parametrize(
    ("lender", "reason"),
    [
        (replace(LENDER, state=JobState.HELD), "job 1 lends but does not run"),
        (replace(LENDER, state=JobState.RELEASED), "job 1 lends but does not run"),
        (replace(LENDER, state=JobState.CHANGING), "job 1 lends but does not run"),
        (replace(LENDER, state=JobState.SUSPENDED), "job 1 lends but is suspended"),
        (replace(LENDER, devices=()), "job 1 lends but holds no device"),
        (
            replace(LENDER, is_exclusive=True),
            "job 1 lends but was submitted with --exclusive, which shares nothing",
        ),
        (replace(LENDER, devices=None), "job 1 lends but Slurm does not tell its device indexes"),
    ],
)
def test_a_lender_that_cannot_lend_is_named(lender: Lender, reason: str) -> None:
    found = survey(replace(FACTS, lenders=(lender,)))
    assert (dict(found.lent), found.refusals) == ({}, (reason,))


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (replace(N1, unusable="idle+drain"), "n1 is idle+drain"),
        (replace(N1, devices=(0,)), "n1 has no bubble:g1"),
        (replace(N1, name="n9"), "n1 is not in partition bubble"),
    ],
)
def test_a_device_that_cannot_be_pinned_is_named(node: Node, reason: str) -> None:
    found = survey(replace(FACTS, nodes=(node, N2)))
    assert Device("n1", 1) not in found.lent
    assert Device("n2", 0) in found.lent
    assert found.refusals == (reason,)


@pytest.mark.parametrize("state", ["inactive", "down", "drain", "not there"])
def test_nothing_is_eligible_while_the_tenant_partition_is_not_up(state: str) -> None:
    found = survey(replace(FACTS, partition_state=state))
    assert (found.free, found.refusals) == ({}, (f"partition bubble is {state}",))


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.SUSPENDED, JobState.CHANGING])
def test_a_gang_keeps_its_device_until_it_is_gone(state: JobState) -> None:
    found = survey(replace(FACTS, gangs=(replace(GANG, state=state),)))
    assert found.taken == {Device("n1", 0): 7}
    assert Device("n1", 0) not in found.free


def test_a_released_gang_takes_what_it_is_pinned_to() -> None:
    typed = replace(
        GANG, state=JobState.RELEASED, devices=(), pin=Pin(indexes=(1,), count=1, nodes=("n1",))
    )
    counted = replace(typed, job_id=8, pin=Pin(count=2, nodes=("n1",)))
    assert survey(replace(FACTS, gangs=(typed,))).taken == {Device("n1", 1): 7}
    assert set(survey(replace(FACTS, gangs=(counted,))).taken) == {Device("n1", 0), Device("n1", 1)}


def test_a_held_gang_takes_nothing() -> None:
    held = replace(GANG, state=JobState.HELD, devices=(), pin=Pin(indexes=(0,), nodes=("n1",)))
    assert survey(replace(FACTS, gangs=(held,))).taken == {}


def test_of_two_gangs_on_a_device_the_running_one_then_the_elder_has_it() -> None:
    pin = Pin(indexes=(0,), count=1, nodes=("n1",))
    waiting = [
        replace(GANG, job_id=job, state=JobState.RELEASED, devices=(), pin=pin) for job in (3, 5)
    ]
    assert survey(replace(FACTS, gangs=(waiting[1], waiting[0]))).taken == {Device("n1", 0): 3}
    assert survey(replace(FACTS, gangs=(GANG, *waiting))).taken == {Device("n1", 0): 7}


def test_a_job_that_is_no_gang_takes_its_bubbles_too() -> None:
    assert survey(replace(FACTS, others=(Device("n2", 0),))).taken == {Device("n2", 0): OTHERS}


def test_a_suspended_lender_still_has_its_devices() -> None:
    suspended = replace(FACTS, lenders=(replace(LENDER, state=JobState.SUSPENDED),))
    assert Device("n1", 0) in lender_devices(suspended)
    ending = replace(FACTS, lenders=(replace(LENDER, state=JobState.CHANGING),))
    assert not lender_devices(ending)


def test_room_is_memory_cpus_and_the_jobs_own_exclusions() -> None:
    gang = replace(GANG, memory_per_cpu_mib=300, cpus_per_task=2)
    assert room_refusal(gang, N1, tasks=1) == ""
    assert "has 1000 MiB of memory left and the gang needs 1200" in room_refusal(gang, N1, tasks=2)
    assert "has 500 MiB" in room_refusal(gang, N1, tasks=1, reserved_mib=500)
    assert "has 1 CPUs left and the gang needs 2" in room_refusal(
        gang, replace(N1, cpus_free=1), tasks=1
    )
    assert "excluded" in room_refusal(replace(gang, excluded_nodes=("n1",)), N1, tasks=1)
    by_node = replace(GANG, memory_per_node_mib=1001)
    assert "needs 1001" in room_refusal(by_node, N1, tasks=1)
