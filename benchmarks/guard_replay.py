"""How fast the guard stops a slowdown, and how often it stops without one: real step times of this
machine, taken while no trial ran, given to a real guard with a slowdown multiplied in. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from benchmarks.blocks import ALWAYS_DENSE
from benchmarks.result_file import Figure, NotTaken
from benchmarks.running import Line
from hydro_hpc.primary.guard import Guard, GuardSettings, is_shut

WARM_PAIRS = 40  # before the slowdown begins
MOST_PAIRS = 500
STEPS_PER_PAIR = 2
Pair = tuple[float, float]  # played as an open step and the shut one after it, seconds


def pairs_of(blocks: Iterable[list[Line]]) -> list[Pair]:
    """Returns the times of each shut step with the step before it: no trial ran in either."""
    found = []
    for lines in blocks:
        times = {line.step: line.step_s for line in lines}
        found += [
            (times[step - 1], shut_s)
            for step, shut_s in times.items()
            if is_shut(step, ALWAYS_DENSE) and step - 1 in times
        ]
    return found


def steps_until_shut(pairs: list[Pair], *, first: int, slowdown: float) -> int | None:
    """Returns how many steps after its beginning a slowdown of the open steps is stopped, None if
    it is not in `MOST_PAIRS` pairs. The recorded pairs are played from `first` on, in a circle.
    """
    guard = Guard(GuardSettings(dense_steps=10**9))
    for number in range(WARM_PAIRS + MOST_PAIRS):
        pair = pairs[(first + number) % len(pairs)]
        factor = 1.0 if number < WARM_PAIRS else 1 + slowdown
        if _play(guard, number, pair, factor) and number >= WARM_PAIRS:
            return (number - WARM_PAIRS + 1) * STEPS_PER_PAIR
        if guard.is_holding:  # a false alarm before the slowdown: as if it had not been
            return None
    return None


def num_false_trips(pairs: list[Pair]) -> int:
    """Returns how often a guard stops while no trial runs; after each, a new one goes on."""
    guard = Guard(GuardSettings(dense_steps=10**9))
    trips = 0
    for number, pair in enumerate(pairs):
        if _play(guard, number, pair, 1.0):
            trips += 1
            guard = Guard(GuardSettings(dense_steps=10**9))
    return trips


def steps_to_shut(blocks: Iterable[list[Line]], slowdown: float) -> Figure | NotTaken:
    """Returns the median with the quartiles, over all places where the slowdown might begin; one
    that is never stopped counts as the longest time.
    """
    pairs = pairs_of(blocks)
    if len(pairs) < WARM_PAIRS:
        return NotTaken(why=f"only {len(pairs)} pairs of steps without a trial were recorded")
    longest = MOST_PAIRS * STEPS_PER_PAIR
    found = [
        steps_until_shut(pairs, first=first, slowdown=slowdown) or longest
        for first in range(len(pairs))
    ]
    low, middle, high = statistics.quantiles(found, n=4)
    return Figure(median=middle, low=low, high=high, n=len(found), unit="steps, quartiles")


def false_trips(blocks: Iterable[list[Line]]) -> Figure | NotTaken:
    """Returns false trips per 1,000 steps."""
    pairs = pairs_of(blocks)
    steps = len(pairs) * STEPS_PER_PAIR
    if not steps:
        return NotTaken(why="no steps without a trial were recorded")
    rate = 1000 * num_false_trips(pairs) / steps
    return Figure(median=rate, low=rate, high=rate, n=steps, unit="1/1000 steps")


def _play(guard: Guard, number: int, pair: Pair, factor: float) -> bool:
    """Gives a pair to the guard; returns whether it holds bubbles shut after it."""
    open_s, shut_s = pair
    for was_shut, step_s in ((False, open_s * factor), (True, shut_s)):
        step = number * STEPS_PER_PAIR + was_shut
        guard.observe(step=step, step_ns=int(step_s * 1e9), was_shut=was_shut, was_shared=True)
        guard.decide(step + 1)
    return guard.is_holding
