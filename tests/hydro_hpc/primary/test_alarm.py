"""The alarm: how soon it sees a slowdown, and how often it cries without one."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator

import pytest

from hydro_hpc.primary.alarm import PAIRS_BETWEEN_FALSE_ALARMS, Alarm, Noise

BOUND = 0.01
STEPS_PER_PAIR = 2  # in the guard's dense phase


def pairs(
    source: random.Random, *, scale: float, far_out: float = 0.0, slowdown: float = 0.0
) -> Iterator[float]:
    """Logs of pairs; `far_out` of them have steps that ran at different speeds."""
    while True:
        noise = 0.4 if source.random() < far_out else scale
        yield math.log1p(slowdown) + source.gauss(0, noise)


def steps_until_alarm(alarm: Alarm, noise: Noise, logs: Iterator[float], at_most: int) -> int:
    for number in range(1, at_most + 1):
        log = next(logs)
        noise.observe(log)
        if alarm.observe(log, noise.scale()):
            return number * STEPS_PER_PAIR
    return at_most * STEPS_PER_PAIR + 1


def delays(slowdown: float, *, scale: float, far_out: float) -> list[int]:
    """Steps from the begin of a slowdown to the alarm, after 100 pairs without one; sorted."""
    found = []
    for seed in range(100):
        source = random.Random(seed)
        alarm, noise = Alarm(BOUND), Noise()
        steps_until_alarm(alarm, noise, pairs(source, scale=scale, far_out=far_out), 100)
        slowed = pairs(source, scale=scale, far_out=far_out, slowdown=slowdown)
        found.append(steps_until_alarm(alarm, noise, slowed, 200))
    return sorted(found)


def test_ten_percent_is_seen_within_twenty_steps_and_three_within_two_hundred() -> None:
    """Pairs of a quiet machine scatter by 2 to 3.5% (docs/decisions/0003-guard-pairs.md)."""
    assert delays(0.10, scale=0.025, far_out=0.05)[90] <= 20
    assert delays(0.03, scale=0.025, far_out=0.05)[90] <= 200


def test_noise_delays_the_alarm_but_does_not_prevent_it() -> None:
    assert delays(0.10, scale=0.06, far_out=0.15)[90] <= 200


@pytest.mark.parametrize(("scale", "far_out"), [(0.02, 0.0), (0.035, 0.05), (0.06, 0.15)])
def test_false_alarms_are_rarer_than_stated(scale: float, far_out: float) -> None:
    """Without a slowdown, and with one exactly at the bound."""
    for slowdown in (0.0, BOUND):
        source = random.Random(1)
        alarm, noise = Alarm(BOUND), Noise()
        logs = pairs(source, scale=scale, far_out=far_out, slowdown=slowdown)
        num_alarms, num_pairs = 0, 20_000
        for log in (next(logs) for _ in range(num_pairs)):
            noise.observe(log)
            if alarm.observe(log, noise.scale()):
                num_alarms += 1
                alarm.reset()
        assert num_alarms <= num_pairs / PAIRS_BETWEEN_FALSE_ALARMS


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0, 10.0, 14.0, 20.0, 30.0, 1e3, 1e6])
def test_step_however_long_is_no_alarm(ratio: float) -> None:
    """A checkpoint in every twentieth step, or a job that is stopped now and then: one open step is
    part of two pairs.
    """
    alarm, noise = Alarm(BOUND), Noise()
    for number in range(200):
        seen = math.log1p(ratio) / 2 if number % 10 >= 8 else 0.0
        noise.observe(seen)
        assert not alarm.observe(seen, noise.scale())


def test_scale_follows_the_middle_of_the_pairs_not_their_tails() -> None:
    source = random.Random(2)
    noise = Noise()
    for number in range(40):
        noise.observe(5.0 if number % 8 == 0 else source.gauss(0.2, 0.05))
    assert noise.scale() == pytest.approx(0.05, rel=0.5)


def test_faster_primary_is_never_an_alarm() -> None:
    source = random.Random(3)
    faster = pairs(source, scale=0.03, slowdown=-0.05)
    assert steps_until_alarm(Alarm(BOUND), Noise(), faster, 2000) > 4000
    assert statistics.fmean(next(faster) for _ in range(100)) < 0
