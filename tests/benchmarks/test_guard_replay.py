"""The guard on recorded steps with a slowdown multiplied in."""

from __future__ import annotations

import random

import pytest

from benchmarks.blocks import ALWAYS_DENSE
from benchmarks.guard_replay import (
    MOST_PAIRS,
    false_trips,
    num_false_trips,
    pairs_of,
    steps_to_shut,
    steps_until_shut,
)
from benchmarks.result_file import Figure, NotTaken
from benchmarks.running import Line
from hydro_hpc.primary.guard import is_shut


def block(count: int, scatter: float) -> list[Line]:
    noise = random.Random(1)
    return [Line(step, 0.0, 0.2 * (1 + noise.gauss(0, scatter))) for step in range(count)]


def test_pairs_are_an_open_and_the_next_shut_step() -> None:
    pairs = pairs_of([block(19, 0.0)[1:]])
    assert len(pairs) == 8
    assert [is_shut(step, ALWAYS_DENSE) for step in range(4)] == [False, True, False, True]


def test_a_large_slowdown_is_stopped_soon_and_a_small_one_later() -> None:
    pairs = pairs_of([block(800, 0.01)])
    large = steps_until_shut(pairs, first=0, slowdown=0.2)
    small = steps_until_shut(pairs, first=0, slowdown=0.03)
    assert large is not None
    assert small is not None
    assert large <= 12 < small


def test_slowdown_within_the_bound_is_not_stopped() -> None:
    pairs = pairs_of([block(800, 0.01)])
    assert steps_until_shut(pairs, first=0, slowdown=0.002) is None
    figure = steps_to_shut([block(400, 0.01)], 0.002)
    assert isinstance(figure, Figure)
    assert figure.median == MOST_PAIRS * 2


def test_steps_of_wild_machines_trip_now_and_then() -> None:
    assert num_false_trips(pairs_of([block(2000, 0.01)])) == 0
    slow_open = [
        Line(line.step, 0.0, line.step_s * (1.0 if is_shut(line.step, ALWAYS_DENSE) else 1.1))
        for line in block(400, 0.01)
    ]
    figure = false_trips([slow_open])
    assert isinstance(figure, Figure)
    assert figure.median == pytest.approx(1000 * num_false_trips(pairs_of([slow_open])) / 400)
    assert figure.median > 10


def test_without_steps_there_is_no_figure() -> None:
    assert isinstance(false_trips([]), NotTaken)
    assert isinstance(steps_to_shut([], 0.1), NotTaken)
