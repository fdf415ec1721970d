"""Which gang gets which devices, and what the others are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurm_plugin.marks import Failure
from slurm_plugin.placement import Placed, Waits
from slurm_plugin.slurm import Device, Facts, Gang, JobState, Pin, Placement
from tests.slurm_plugin.facts import NOW_S, decide, facts, gang, lender, node


def only_placement(seen: Facts, *, now_s: float = NOW_S) -> Placement:
    (decision,) = decide(seen, now_s=now_s)
    assert isinstance(decision, Placed), decision
    return decision.placement


def only_reason(seen: Facts, *, now_s: float = NOW_S) -> str:
    (decision,) = decide(seen, now_s=now_s)
    assert isinstance(decision, Waits), decision
    return decision.reason


TWO_OF_ONE = ([node("n1"), node("n2")], [lender(1, "n1/0", "n2/0")])
TWO_OF_TWO = ([node("n1", 2), node("n2", 2)], [lender(1, "n1/0", "n1/1", "n2/0", "n2/1")])


def test_two_nodes_of_one_device_are_pinned_by_count() -> None:
    placement = only_placement(facts(*TWO_OF_ONE, gang(7, 2)))
    assert (placement.nodes, placement.gres, placement.num_tasks) == (("n1", "n2"), "bubble:1", 2)


def test_two_nodes_of_two_devices_are_pinned_by_count() -> None:
    placement = only_placement(facts(*TWO_OF_TWO, gang(7, 4)))
    assert (placement.nodes, placement.gres, placement.num_tasks) == (("n1", "n2"), "bubble:2", 4)
    assert placement.cpus_per_node == 2


def test_two_devices_of_two_nodes_of_two_are_all_of_one_node() -> None:
    placement = only_placement(facts(*TWO_OF_TWO, gang(7, 2)))
    assert (placement.nodes, placement.gres) == (("n1",), "bubble:2")


def test_one_device_of_a_node_of_two_is_pinned_by_type() -> None:
    assert only_placement(facts(*TWO_OF_TWO, gang(7, 1))).gres == "bubble:g0:1"


def test_a_device_that_is_lent_alone_is_pinned_by_type() -> None:
    nodes = [node("n1", 2), node("n2", 2)]
    placement = only_placement(facts(nodes, [lender(1, "n1/1", "n2/1")], gang(7, 2)))
    assert (placement.nodes, placement.gres) == (("n1", "n2"), "bubble:g1:1")


def test_devices_are_the_same_on_every_node_or_the_gang_waits() -> None:
    nodes = [node("n1", 2), node("n2", 2)]
    seen = facts(nodes, [lender(1, "n1/0"), lender(2, "n2/1")], gang(7, 2))
    assert only_reason(seen) == (
        "wants 2 devices, the same on each node; 2 of 2 lent devices are free, "
        "not enough of them alike"
    )


def test_three_devices_are_not_found_on_two_nodes_of_two() -> None:
    assert "wants 3 devices" in only_reason(facts(*TWO_OF_TWO, gang(7, 3)))
    assert only_placement(facts(*TWO_OF_TWO, gang(7, 2, 3))).num_tasks == 2


def test_a_range_takes_fewer_at_once() -> None:
    seen = facts([node("n1"), node("n2"), node("n3")], [lender(1, "n1/0", "n2/0")], gang(7, 2, 3))
    assert only_placement(seen).nodes == ("n1", "n2")


def test_a_range_takes_as_many_as_there_are() -> None:
    assert only_placement(facts(*TWO_OF_TWO, gang(7, 1, 8))).num_tasks == 4


def test_a_gang_stays_with_one_lender_if_it_can() -> None:
    nodes = [node(f"n{i}") for i in range(1, 6)]
    lenders = [lender(1, "n1/0", "n3/0", "n5/0"), lender(2, "n2/0", "n4/0")]
    assert only_placement(facts(nodes, lenders, gang(7, 2))).nodes == ("n2", "n4")
    assert only_placement(facts(nodes, lenders, gang(7, 3))).nodes == ("n1", "n3", "n5")


def test_the_elder_gang_is_served_first() -> None:
    first, second = decide(facts(*TWO_OF_ONE, gang(9, 2), gang(7, 2)))
    assert isinstance(first, Placed)
    assert first.gang.job_id == 7
    assert isinstance(second, Waits)
    assert second.reason == "wants 2 devices, the same on each node; 0 of 2 lent devices are free"


def test_a_small_gang_may_pass_a_large_one_only_until_that_waited_long() -> None:
    busy = gang(3, 1, state=JobState.RUNNING, devices=(Device("n1", 0),))
    seen = facts(*TWO_OF_ONE, busy, gang(7, 2), gang(9, 1, submitted_s=NOW_S + 599))
    _, young = decide(seen, now_s=NOW_S + 599)
    assert isinstance(young, Placed)
    _, young = decide(seen, now_s=NOW_S + 600)
    assert isinstance(young, Waits)


def test_a_large_gang_that_can_not_be_placed_keeps_nothing_from_others() -> None:
    nodes = [node("n1"), node("n2"), node("n3"), node("n4")]
    seen = facts(nodes, [lender(1, "n1/0", "n2/0")], gang(7, 4), gang(9, 2))
    _, small = decide(seen, now_s=NOW_S + 10_000)
    assert isinstance(small, Placed)


def test_more_than_the_cluster_has_is_said_at_once() -> None:
    assert only_reason(facts(*TWO_OF_ONE, gang(7, 999))) == (
        "wants 999 devices and the whole cluster has 2; cancel it and ask for at most 2"
    )
    assert "wants 3-999 devices" in only_reason(facts(*TWO_OF_ONE, gang(7, 3, 999)))


def test_no_lender_is_said() -> None:
    assert only_reason(facts([node("n1")], [], gang(7, 1))) == "no running job lends its bubbles"


def test_why_a_lender_does_not_count_is_said() -> None:
    broken = [replace(node("n1"), unusable="down")]
    assert only_reason(facts(broken, [lender(1, "n1/0")], gang(7, 1))) == "n1 is down"


def test_memory_that_is_lacking_is_said() -> None:
    nodes = [node("n1", memory_free_mib=99), node("n2")]
    seen = facts(nodes, [lender(1, "n1/0")], gang(7, 1, memory_per_cpu_mib=100))
    assert only_reason(seen) == "n1 has 99 MiB of memory left and the gang needs 100"


def test_memory_is_promised_once() -> None:
    nodes = [node("n1", 2, memory_free_mib=150)]
    first, second = decide(
        facts(
            nodes,
            [lender(1, "n1/0", "n1/1")],
            gang(7, 1, memory_per_cpu_mib=100),
            gang(8, 1, memory_per_cpu_mib=100),
        )
    )
    assert isinstance(first, Placed)
    assert isinstance(second, Waits)
    assert "n1 has 50 MiB of memory left" in second.reason


def test_memory_of_a_released_gang_is_promised_already() -> None:
    nodes = [node("n1", 2, memory_free_mib=150)]
    released = gang(
        7,
        1,
        state=JobState.RELEASED,
        memory_per_cpu_mib=100,
        pin=Pin(indexes=(0,), count=1, nodes=("n1",)),
    )
    seen = facts(nodes, [lender(1, "n1/0", "n1/1")], released, gang(8, 1, memory_per_cpu_mib=100))
    assert "n1 has 50 MiB" in only_reason(seen)


def test_where_memory_is_short_fewer_devices_are_taken_in_a_range() -> None:
    nodes = [node("n1", 2, memory_free_mib=150)]
    seen = facts(nodes, [lender(1, "n1/0", "n1/1")], gang(7, 1, 2, memory_per_cpu_mib=100))
    assert only_placement(seen).gres == "bubble:g0:1"


# --- requeued and pinned gangs ----------------------------------------------------------------


def requeued(job_id: int, pin: Pin, *, low: int, high: int = 0, **changes: object) -> Gang:
    return gang(job_id, low, high, pin=pin, num_requeues=1, num_nodes=len(pin.nodes), **changes)


def test_a_requeued_typed_gang_keeps_its_indexes() -> None:
    pin = Pin(indexes=(1,), count=1, nodes=("n1",))
    assert only_placement(facts(*TWO_OF_TWO, requeued(7, pin, low=1))).gres == "bubble:g1:1"
    seen = facts([node("n1", 2)], [lender(1, "n1/0")], requeued(7, pin, low=1))
    assert only_reason(seen) == (
        "needs device 1 of 1 node again, as Slurm keeps a job's request; "
        "1 of 1 lent devices are free"
    )


def test_a_typed_gang_keeps_its_indexes_even_if_it_never_ran() -> None:
    pin = Pin(indexes=(1,), count=1, nodes=("n1",))
    assert only_placement(facts(*TWO_OF_TWO, gang(7, 1, 4, pin=pin))).gres == "bubble:g1:1"


def test_a_requeued_gang_keeps_its_number_of_nodes() -> None:
    pin = Pin(count=1, nodes=("n1",))
    placement = only_placement(facts(*TWO_OF_ONE, requeued(7, pin, low=1, high=2)))
    assert len(placement.nodes) == 1
    pin = Pin(count=1, nodes=("n1", "n2"))
    seen = facts([node("n1"), node("n2")], [lender(1, "n1/0")], requeued(7, pin, low=1, high=2))
    assert "needs all devices of 2 nodes again" in only_reason(seen)


def test_a_counted_gang_goes_only_where_all_devices_are_lent() -> None:
    pin = Pin(count=1, nodes=("n1",))
    nodes = [node("n1"), node("n2", 2)]
    seen = facts(nodes, [lender(1, "n2/0")], requeued(7, pin, low=1, high=2))
    assert "needs all devices" in only_reason(seen)
    seen = facts(nodes, [lender(1, "n2/0", "n2/1")], requeued(7, pin, low=1, high=2))
    assert only_placement(seen).gres == "bubble:2"


@pytest.mark.parametrize(("count", "delay_s"), [(1, 5), (2, 10), (3, 20), (7, 300), (999_999, 300)])
def test_a_gang_that_failed_waits_longer_each_time(count: int, delay_s: int) -> None:
    pin = Pin(count=1, nodes=("n1", "n2"))
    failed = requeued(7, pin, low=2, failure=Failure(reason="guard-tripped", count=count))
    seen = facts(*TWO_OF_ONE, failed)
    assert f"({'guard-tripped'}); is placed again at" in only_reason(
        seen, now_s=NOW_S + delay_s - 1
    )
    assert only_placement(seen, now_s=NOW_S + delay_s).nodes == ("n1", "n2")


def test_a_gang_that_failed_goes_elsewhere_if_it_can() -> None:
    nodes = [node("n1"), node("n2"), node("n3")]
    lenders = [lender(1, "n1/0"), lender(2, "n3/0")]
    pin = Pin(count=1, nodes=("n1",))
    failed = requeued(7, pin, low=1, failure=Failure(reason="lane-missing", count=1))
    assert only_placement(facts(nodes, lenders, failed), now_s=NOW_S + 5).nodes == ("n3",)
    seen = facts(nodes, lenders[:1], failed)
    assert only_placement(seen, now_s=NOW_S + 5).nodes == ("n1",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unplaceable": "a job array cannot"}, "a job array cannot"),
        ({"dependency": "afterok:4(unfulfilled)"}, "depends on afterok:4(unfulfilled)"),
        ({"begin_s": 1_700_000_000}, "begins at 2023-11-14T22:13:20Z"),
    ],
)
def test_a_gang_that_must_not_start_now_waits(changes: dict[str, object], reason: str) -> None:
    assert only_reason(facts(*TWO_OF_ONE, gang(7, 2, 2, **changes))).startswith(reason)


def test_the_start_time_that_a_requeue_set_is_not_waited_for() -> None:
    pin = Pin(count=1, nodes=("n1", "n2"))
    assert only_placement(facts(*TWO_OF_ONE, requeued(7, pin, low=2, begin_s=NOW_S + 120)))


def test_excluded_nodes_are_not_used() -> None:
    assert only_placement(facts(*TWO_OF_ONE, gang(7, 1, excluded_nodes=("n1",)))).nodes == ("n2",)
