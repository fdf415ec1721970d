"""Any cluster: every plan keeps the rules, and finds what there is."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_plugin.eligibility import survey
from slurm_plugin.marks import Failure, Wish
from slurm_plugin.placement import Placed, Waits
from slurm_plugin.slurm import Device, Facts, JobState, Lender, Pin
from tests.slurm_plugin.facts import NOW_S, decide, facts, gang, node


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
