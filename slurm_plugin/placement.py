"""Pure: which held gang gets which lent devices, and what each of the others is told.

GRES are asked for per node and alike on all nodes of a job, so a gang has the same device indexes
on each of its nodes. Gangs are served in the order of their job ids (Slurm renews the submit time
at each requeue); one that waited long keeps the devices that it needs from younger ones. Equal
facts give equal plans.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from slurm_plugin.eligibility import Survey, pinned_devices, room_refusal
from slurm_plugin.gres import print_indexes
from slurm_plugin.marks import Wish
from slurm_plugin.slurm import Device, Facts, Gang, JobState, Node, Placement

MAX_SHAPES: Final = 1024  # different sets of free devices looked at; never met up to 10 a node


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long things may take, in seconds."""

    first_delay_s: int = 5  # before a gang that failed once is placed again; doubles each time
    longest_delay_s: int = 300
    hoards_after_s: int = 600  # a gang that waited so long keeps devices free for itself

    def delay_s(self, num_failures: int) -> int:
        return min(self.first_delay_s << min(num_failures - 1, 20), self.longest_delay_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """This gang is to be pinned there and released."""

    gang: Gang
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """This gang stays held; `reason` is for its user."""

    gang: Gang
    reason: str


Decision = Placed | Waits
HasRoom = Callable[[Node, int], bool]  # (node, tasks there)


def plan(facts: Facts, lent: Survey, *, now_s: float, patience: Patience) -> list[Decision]:
    """Returns a decision for every held gang, the oldest first."""
    pool = _Pool.of(facts, lent)
    held = [gang for gang in facts.gangs if gang.state is JobState.HELD]
    return [
        _decide(gang, pool, now_s=now_s, patience=patience)
        for gang in sorted(held, key=lambda gang: gang.job_id)
    ]


def choose(
    gang: Gang,
    devices: Mapping[Device, int],
    nodes: Mapping[str, Node],
    *,
    has_room: HasRoom,
) -> Placement | None:
    """Returns the best placement of a gang on `devices` (-> their lender), None if there is none.

    Best: most devices; then of the fewest lenders; then by count; then on the fewest nodes.
    """
    free: dict[str, set[int]] = {}
    for device in devices:
        free.setdefault(device.node, set()).add(device.index)
    candidates = []
    for indexes, by_count in _shapes(gang, free, nodes):
        able = [
            name
            for name, has in sorted(free.items())
            if has.issuperset(indexes)
            and (not by_count or nodes[name].devices == indexes)
            and has_room(nodes[name], len(indexes))
        ]
        num_nodes = _num_nodes(gang, len(able), len(indexes))
        if num_nodes:
            chosen = _pick_nodes(able, num_nodes, indexes, devices)
            candidates.append(
                Placement(
                    nodes=chosen,
                    indexes=indexes,
                    by_count=by_count,
                    cpus_per_task=gang.cpus_per_task,
                )
            )

    def rank(placement: Placement) -> tuple[object, ...]:
        lenders = {devices[device] for device in placement.devices}
        return (
            -placement.num_tasks,
            len(lenders),
            not placement.by_count,
            len(placement.nodes),
            placement.nodes,
            placement.indexes,
        )

    return min(candidates, key=rank, default=None)


@dataclass(slots=True, kw_only=True)
class _Pool:
    """What is left while gangs are placed one after the other."""

    facts: Facts
    survey: Survey
    nodes: Mapping[str, Node]
    free: dict[Device, int]
    promised_mib: Counter[str] = field(default_factory=Counter)  # to gangs that do not run yet

    @classmethod
    def of(cls, facts: Facts, lent: Survey) -> _Pool:
        nodes = {node.name: node for node in facts.nodes}
        pool = cls(facts=facts, survey=lent, nodes=nodes, free=lent.free)
        counts = {node.name: node.devices for node in facts.nodes}
        for gang in facts.gangs:
            if gang.state is JobState.RELEASED:
                tasks = Counter(device.node for device in pinned_devices(gang, counts))
                for name, num_tasks in tasks.items():
                    pool.promised_mib[name] += gang.memory_mib(num_tasks)
        return pool

    def take(self, gang: Gang, placement: Placement) -> None:
        for device in placement.devices:
            del self.free[device]
        for name in placement.nodes:
            self.promised_mib[name] += gang.memory_mib(len(placement.indexes))

    def room_refusal(self, gang: Gang, node: Node, tasks: int) -> str:
        return room_refusal(gang, node, tasks=tasks, reserved_mib=self.promised_mib[node.name])

    def choose(self, gang: Gang, devices: Mapping[Device, int]) -> Placement | None:
        def has_room(node: Node, tasks: int) -> bool:
            return not self.room_refusal(gang, node, tasks)

        return choose(gang, devices, self.nodes, has_room=has_room)

    def keep_for(self, gang: Gang) -> None:
        """Takes the free ones of the devices that would suit a gang, were all that is lent free."""
        wanted = choose(gang, self.survey.lent, self.nodes, has_room=_always)
        for device in wanted.devices if wanted else ():
            self.free.pop(device, None)


def _decide(gang: Gang, pool: _Pool, *, now_s: float, patience: Patience) -> Decision:
    reason = _never(gang, pool.facts) or _not_yet(gang, now_s=now_s, patience=patience)
    if reason:
        return Waits(gang=gang, reason=reason)
    placement = _elsewhere(gang, pool) or pool.choose(gang, pool.free)
    if placement is not None:
        pool.take(gang, placement)
        return Placed(gang=gang, placement=placement)
    reason = _lacking(gang, pool)
    if now_s - gang.submitted_s >= patience.hoards_after_s:
        pool.keep_for(gang)
    return Waits(gang=gang, reason=reason)


def _elsewhere(gang: Gang, pool: _Pool) -> Placement | None:
    """A placement without the nodes that the gang last failed on."""
    if gang.failure is None or gang.pin is None:
        return None
    failed_on = set(gang.pin.nodes)
    return pool.choose(gang, {d: job for d, job in pool.free.items() if d.node not in failed_on})


def _never(gang: Gang, facts: Facts) -> str:
    """Returns why a gang can never be placed in this cluster, else ''."""
    if gang.unplaceable:
        return gang.unplaceable
    num_devices = sum(len(node.devices) for node in facts.nodes)
    if gang.wish.low > num_devices:
        return (
            f"wants {_print_wish(gang.wish)} and the whole cluster has {num_devices}; "
            f"cancel it and ask for at most {num_devices}"
        )
    return ""


def _not_yet(gang: Gang, *, now_s: float, patience: Patience) -> str:
    """Returns why a gang is not to be placed at this time, else ''."""
    if gang.dependency:
        return f"depends on {gang.dependency}"
    if gang.begin_s > now_s and not gang.num_requeues:
        return f"begins at {_print_time(gang.begin_s)}"
    if gang.failure is None:
        return ""
    again_s = gang.submitted_s + patience.delay_s(gang.failure.count)
    if now_s >= again_s:
        return ""
    times = f"{gang.failure.count} time" + ("s" if gang.failure.count > 1 else "")
    return f"failed {times} ({gang.failure.reason}); is placed again at {_print_time(again_s)}"


def _lacking(gang: Gang, pool: _Pool) -> str:
    """Returns what is missing for a gang that could not be placed."""
    if not pool.survey.lent:
        return "; ".join(pool.survey.refusals[:2]) or "no running job lends its bubbles"
    roomy = choose(gang, pool.free, pool.nodes, has_room=_always)
    if roomy is not None:
        tasks = len(roomy.indexes)
        refusals = (pool.room_refusal(gang, pool.nodes[name], tasks) for name in roomy.nodes)
        return next(filter(None, refusals))
    counts = f"{len(pool.free)} of {len(pool.survey.lent)} lent devices are free"
    if gang.pin is not None:
        which = f"device {print_indexes(gang.pin.indexes)}" if gang.pin.is_typed else "all devices"
        nodes = f"{gang.num_nodes} node" + ("s" if gang.num_nodes > 1 else "")
        again = f"needs {which} of {nodes if gang.num_requeues else 'each node'} again"
        return f"{again}, as Slurm keeps a job's request; {counts}"
    alike = ", not enough of them alike" if len(pool.free) >= gang.wish.low else ""
    return f"wants {_print_wish(gang.wish)}, the same on each node; {counts}{alike}"


def _shapes(
    gang: Gang, free: Mapping[str, set[int]], nodes: Mapping[str, Node]
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """The sets of device indexes that a gang could have on each node, and whether by count."""
    if gang.pin is not None and gang.pin.is_typed:
        yield gang.pin.indexes, False
        return
    whole = {nodes[name].devices for name, has in free.items() if has == set(nodes[name].devices)}
    yield from ((indexes, True) for indexes in sorted(whole))
    if gang.pin is None:
        typed = {
            tuple(sorted(common))[:size]
            for common in _common_sets(free)
            for size in range(1, len(common) + 1)
        }
        yield from ((indexes, False) for indexes in sorted(typed))


def _common_sets(free: Mapping[str, set[int]]) -> set[frozenset[int]]:
    """Returns every set of devices that is just what some nodes have free in common."""
    common: set[frozenset[int]] = set()
    for _, has in sorted(free.items()):
        if len(common) > MAX_SHAPES:
            break
        common |= {frozenset(has), *(frozenset(has & other) for other in common)}
    return common - {frozenset()}


def _num_nodes(gang: Gang, num_able: int, num_devices: int) -> int:
    """Returns on how many nodes to place a gang, 0 if it would have too few or too many devices."""
    num_nodes = (
        gang.num_nodes if gang.num_requeues else min(num_able, gang.wish.high // num_devices)
    )
    is_wished = gang.wish.low <= num_nodes * num_devices <= gang.wish.high
    return num_nodes if is_wished and num_nodes <= num_able else 0


def _pick_nodes(
    able: list[str], num_nodes: int, indexes: tuple[int, ...], devices: Mapping[Device, int]
) -> tuple[str, ...]:
    """Picks nodes of few lenders: the smallest group that suffices, else the largest."""
    lenders = {name: tuple(devices[Device(name, index)] for index in indexes) for name in able}
    sizes = Counter(lenders.values())

    def rank(name: str) -> tuple[object, ...]:
        size = sizes[lenders[name]]
        suffices = size >= num_nodes
        return (not suffices, size if suffices else -size, lenders[name], name)

    return tuple(sorted(sorted(able, key=rank)[:num_nodes]))


def _always(node: Node, tasks: int) -> bool:
    del node, tasks
    return True


def _print_wish(wish: Wish) -> str:
    count = str(wish.low) if wish.low == wish.high else str(wish)
    return f"{count} device" + ("s" if wish.high > 1 else "")


def _print_time(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
