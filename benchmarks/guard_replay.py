"""How fast the guard stops a slowdown, and how often it stops without one: real step times of this
machine, taken while no trial ran, given to a real guard with a slowdown multiplied in. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from benchmarks.blocks import ALWAYS_DENSE
from benchmarks.result_file import Figure, NotTaken
from benchmarks.running import Line
from hydro_hpc.primary.guard import BLOCK_STEPS, Guard, GuardSettings, is_shut

WARM_GROUPS = 20  # before the slowdown begins
MOST_GROUPS = 250
Group = tuple[float, ...]  # two open steps and the next two shut ones, seconds


def groups_of(blocks: Iterable[list[Line]]) -> list[Group]:
    """Returns the times of each two open steps with the two shut steps after them."""
    found = []
    for lines in blocks:
        times = {line.step: line.step_s for line in lines}
        for first in times:
            steps = range(first, first + 2 * BLOCK_STEPS)
            is_group = first % (2 * BLOCK_STEPS) == 0 and all(step in times for step in steps)
            if is_group and not is_shut(first, ALWAYS_DENSE):
                found.append(tuple(times[step] for step in steps))
    return found


def steps_until_shut(groups: list[Group], *, first: int, slowdown: float) -> int | None:
    """Returns how many steps after its beginning a slowdown of the open steps is stopped, None if
    it is not in `MOST_GROUPS` groups. The recorded groups are played from `first` on, in a circle.
    """
    guard = Guard(GuardSettings(dense_steps=10**9))
    for number in range(WARM_GROUPS + MOST_GROUPS):
        group = groups[(first + number) % len(groups)]
        factor = 1.0 if number < WARM_GROUPS else 1 + slowdown
        if _play(guard, number, group, factor) and number >= WARM_GROUPS:
            return (number - WARM_GROUPS + 1) * 2 * BLOCK_STEPS
        if guard.is_holding:  # a false alarm before the slowdown: as if it had not been
            return None
    return None


def num_false_trips(groups: list[Group]) -> int:
    """Returns how often a guard stops while no trial runs; after each, a new one goes on."""
    guard = Guard(GuardSettings(dense_steps=10**9))
    trips = 0
    for number, group in enumerate(groups):
        if _play(guard, number, group, 1.0):
            trips += 1
            guard = Guard(GuardSettings(dense_steps=10**9))
    return trips


def steps_to_shut(blocks: Iterable[list[Line]], slowdown: float) -> Figure | NotTaken:
    """Returns the median with the quartiles, over all places where the slowdown might begin; one
    that is never stopped counts as the longest time.
    """
    groups = groups_of(blocks)
    if len(groups) < WARM_GROUPS:
        return NotTaken(why=f"only {len(groups)} groups of steps without a trial were recorded")
    longest = MOST_GROUPS * 2 * BLOCK_STEPS
    found = [
        steps_until_shut(groups, first=first, slowdown=slowdown) or longest
        for first in range(len(groups))
    ]
    low, middle, high = statistics.quantiles(found, n=4)
    return Figure(median=middle, low=low, high=high, n=len(found), unit="steps, quartiles")


def false_trips(blocks: Iterable[list[Line]]) -> Figure | NotTaken:
    """Returns false trips per 1,000 steps."""
    groups = groups_of(blocks)
    steps = len(groups) * 2 * BLOCK_STEPS
    if not steps:
        return NotTaken(why="no steps without a trial were recorded")
    rate = 1000 * num_false_trips(groups) / steps
    return Figure(median=rate, low=rate, high=rate, n=steps, unit="1/1000 steps")


def _play(guard: Guard, number: int, group: Group, factor: float) -> bool:
    """Gives a group to the guard; returns whether it holds bubbles shut after it."""
    for offset, seconds in enumerate(group):
        step = number * 2 * BLOCK_STEPS + offset
        was_shut = offset >= BLOCK_STEPS
        step_s = seconds if was_shut else seconds * factor
        guard.observe(step=step, step_ns=int(step_s * 1e9), was_shut=was_shut, was_shared=True)
        guard.decide(step + 1)
    return guard.is_holding
