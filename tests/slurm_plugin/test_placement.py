"""Which gang gets which devices, and what the others are told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_plugin.eligibility import survey
from slurm_plugin.marks import Failure, Wish
from slurm_plugin.placement import Decision, Patience, Placed, Waits, plan
from slurm_plugin.slurm import Device, Facts, Gang, JobState, Lender, Node, Pin, Placement

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


# --- properties -------------------------------------------------------------------------------


@st.composite
def clusters(draw: st.DrawFn) -> Facts:
    """Up to 5 nodes of up to 3 devices, lent by up to 3 jobs; gangs in every state."""
    nodes = [
        node(f"n{i}", draw(st.integers(1, 3)), memory_free_mib=draw(st.integers(0, 400)))
        for i in range(draw(st.integers(1, 5)))
    ]
    owners = st.integers(0, 3)  # 0: not lent
    owned = {Device(n.name, i): draw(owners) for n in nodes for i in n.devices}
    lenders = [
        Lender(
            job_id=job, state=JobState.RUNNING, devices=tuple(d for d in owned if owned[d] == job)
        )
        for job in (1, 2, 3)
    ]
    gangs = []
    for job_id in range(10, 10 + draw(st.integers(0, 6))):
        low = draw(st.integers(1, 6))
        num_requeues = draw(st.integers(0, 1))
        names = tuple(
            sorted(draw(st.sets(st.sampled_from([n.name for n in nodes]), min_size=1, max_size=3)))
        )
        indexes = tuple(sorted(draw(st.sets(st.integers(0, 2), max_size=2))))
        pin = Pin(indexes=indexes, count=len(indexes) or 1, nodes=names)
        is_pinned = draw(st.booleans()) or num_requeues
        gangs.append(
            gang(
                job_id,
                low,
                low + draw(st.integers(0, 6)),
                state=draw(st.sampled_from([JobState.HELD, JobState.HELD, JobState.RELEASED])),
                pin=pin if is_pinned else None,
                num_requeues=num_requeues,
                num_nodes=len(names),
                memory_per_cpu_mib=draw(st.sampled_from([0, 100])),
                submitted_s=NOW_S - draw(st.sampled_from([0, 5000])),
                failure=draw(st.none() | st.just(Failure(reason="x", count=1))),
            )
        )
    return facts(nodes, lenders, *gangs)


@settings(max_examples=300, deadline=None)
@given(seen=clusters())
def test_every_plan_keeps_the_rules(seen: Facts) -> None:
    lent = survey(seen)
    nodes = {n.name: n for n in seen.nodes}
    given_away: set[Device] = set()
    needed_mib = dict.fromkeys(nodes, 0)
    decisions = decide(seen)
    held = sorted(g.job_id for g in seen.gangs if g.state is JobState.HELD)
    assert [d.gang.job_id for d in decisions] == held
    for decision in decisions:
        if isinstance(decision, Waits):
            assert decision.reason
            continue
        placed, placement = decision.gang, decision.placement
        devices = set(placement.devices)
        assert devices <= set(lent.free), "only what is lent and free"
        assert not devices & given_away, "no device twice"
        assert placed.wish.low <= len(devices) <= placed.wish.high
        assert len(devices) == placement.num_tasks
        given_away |= devices
        for name in placement.nodes:
            needed_mib[name] += placed.memory_mib(len(placement.indexes))
            assert needed_mib[name] <= nodes[name].memory_free_mib
            assert not placement.by_count or nodes[name].devices == placement.indexes
        if placed.pin is not None:
            assert placement.by_count != placed.pin.is_typed
            assert not placed.pin.is_typed or placement.indexes == placed.pin.indexes
        if placed.num_requeues:
            assert len(placement.nodes) == placed.num_nodes


@settings(max_examples=100, deadline=None)
@given(seen=clusters(), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_facts_does_not_matter(seen: Facts, shuffle: object) -> None:
    assert hasattr(shuffle, "sample")

    def mixed(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(shuffle.sample(values, len(values)))

    other = replace(
        seen,
        nodes=mixed(seen.nodes),  # type: ignore[arg-type]
        lenders=mixed(seen.lenders),  # type: ignore[arg-type]
        gangs=mixed(seen.gangs),  # type: ignore[arg-type]
    )
    assert decide(other) == decide(seen)


@settings(max_examples=200, deadline=None)
@given(seen=clusters())
def test_a_fresh_gang_waits_only_if_no_placement_exists(seen: Facts) -> None:
    """Against a search through all sets of nodes and indexes, for one gang without a history."""
    lone = gang(99, 1, 1)
    for low in (1, 2, 3, 4, 6):
        asked = replace(lone, wish=Wish(low=low, high=low))
        alone = replace(seen, gangs=(asked,))
        (decision,) = decide(alone)
        assert isinstance(decision, Placed) == _is_possible(low, set(survey(alone).free))


def _is_possible(wanted: int, free: set[Device]) -> bool:
    by_node: dict[str, set[int]] = {}
    for device in free:
        by_node.setdefault(device.node, set()).add(device.index)
    for bits in range(1, 8):
        indexes = {i for i in range(3) if bits >> i & 1}
        able = sum(indexes <= has for has in by_node.values())
        if wanted % len(indexes) == 0 and 0 < wanted // len(indexes) <= able:
            return True
    return False
