"""The guard: which steps are shut, what the slowdown is, and when bubbles are held."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from hydro_hpc.primary.guard import (
    CALM_PAIRS,
    DECIDE_EVERY_STEPS,
    MOST_CAUTION,
    Guard,
    GuardSettings,
    estimate,
    is_shut,
)


def play(
    guard: Guard, steps: range, *, slowdown: float, noise: float, source: random.Random
) -> list[int]:
    """Feeds steps of 100 ms, open ones longer by `slowdown`; returns the steps at which it held."""
    held = []
    for step in steps:
        shut = is_shut(step, guard.settings)
        is_open = not shut and not guard.is_holding
        step_ns = 1e8 * (1 + slowdown * is_open) * source.gauss(1, noise)
        guard.observe(step=step, step_ns=int(step_ns), was_shut=shut, was_shared=True)
        if guard.decide(step + 1):
            held.append(step + 1)
    return held


def test_half_of_the_steps_are_shut_at_first_and_one_in_twenty_later() -> None:
    settings = GuardSettings(dense_steps=200)
    assert sum(is_shut(step, settings) for step in range(200)) == 100
    assert sum(is_shut(step, settings) for step in range(200, 2200)) == 100


def test_later_shut_steps_stand_between_open_ones() -> None:
    settings = GuardSettings(dense_steps=400)
    shut = [step for step in range(401, 1_000_000) if is_shut(step, settings)]
    assert min(after - step for step, after in itertools.pairwise(shut)) == 2


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8, 10, 16, 20, 40, 100])
def test_shut_steps_have_no_period(period: int) -> None:
    """What a job does every so many steps must not fall on open steps only, or on shut ones."""
    for first, last, share in ((0, 8000, 0.5), (8000, 200_000, 0.05)):
        settings = GuardSettings(dense_steps=8000)
        for phase in range(period):
            steps = range(first + phase, last, period)
            shut = sum(is_shut(step, settings) for step in steps)
            expected = share * len(steps)
            assert abs(shut - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(("period", "extra"), [(10, 0.3), (20, 0.3), (20, 3.0), (100, 3.0)])
def test_evaluations_are_no_slowdown_and_hide_none(period: int, extra: float) -> None:
    for phase in range(0, period, period // 5):
        for slowdown in (0.0, 0.02):
            source = random.Random(phase)
            guard = Guard(GuardSettings(bound=0.05, dense_steps=3000))
            for step in range(3000):
                shut = is_shut(step, guard.settings)
                evaluates = step % period == phase
                factor = (1 + slowdown * (not shut)) * (1 + extra * evaluates)
                step_ns = int(1e8 * factor * source.gauss(1, 0.02))
                guard.observe(step=step, step_ns=step_ns, was_shut=shut, was_shared=True)
                assert not guard.decide(step + 1)
            assert abs(guard.estimate().slowdown - slowdown) < 0.02


def test_estimate_finds_the_slowdown_within_its_interval() -> None:
    source = random.Random(3)
    guard = Guard(GuardSettings(bound=0.5, dense_steps=10_000))
    play(guard, range(801), slowdown=0.03, noise=0.02, source=source)
    found = guard.estimate()
    assert found.num_pairs > 300
    assert found.low < 0.03 < found.high
    assert found.high - found.low < 0.01


def test_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    source = random.Random(5)
    covered = 0
    for _ in range(400):
        logs = [math.log1p(0.02) + source.gauss(0, 0.03) for _ in range(40)]
        found = estimate(logs)
        covered += found.low <= 0.02 <= found.high
    assert 0.91 <= covered / 400 <= 0.98


def test_one_checkpoint_in_an_open_step_does_not_move_the_estimate() -> None:
    logs = [0.001 * (-1) ** k for k in range(40)]
    calm = estimate(logs)
    shaken = estimate([*logs[:-1], math.log(25.0)])
    assert abs(shaken.slowdown - calm.slowdown) < 0.001


def test_faster_primary_is_shown_with_its_sign() -> None:
    logs = [math.log(1 + change) for change in (-0.02, -0.021, -0.019, -0.02)]
    assert estimate(logs).slowdown == pytest.approx(-0.02, abs=1e-5)


def test_noise_alone_is_no_slowdown_however_large() -> None:
    """The mean of open / shut would be 1.09 here: a quotient of noisy numbers is skewed."""
    source = random.Random(23)
    guard = Guard(GuardSettings(bound=0.99, dense_steps=100_000))
    for step in range(8000):
        step_ns = int(1e8 * math.exp(source.gauss(0, 0.35)))
        shut = is_shut(step, guard.settings)
        guard.observe(step=step, step_ns=step_ns, was_shut=shut, was_shared=True)
    found = guard.estimate()
    assert abs(found.slowdown) < 0.03
    assert found.low < 0 < found.high


def test_even_drift_of_the_machine_is_no_slowdown() -> None:
    guard = Guard(GuardSettings(bound=0.99, dense_steps=1000))
    for step in range(100):
        shut = is_shut(step, guard.settings)
        step_ns = int(1e8 * 1.03**step)
        guard.observe(step=step, step_ns=step_ns, was_shut=shut, was_shared=True)
    assert guard.estimate().slowdown == pytest.approx(0, abs=1e-6)


def test_too_few_pairs_say_nothing() -> None:
    assert estimate([0.1, 0.2]).low == -math.inf
    assert estimate([]).num_pairs == 0


def test_trips_at_once_and_retries_at_a_multiple_of_twenty() -> None:
    source = random.Random(7)
    guard = Guard(GuardSettings(bound=0.01, dense_steps=10_000))
    held = play(guard, range(400), slowdown=0.10, noise=0.01, source=source)
    assert held[0] <= 20
    ends = [step + 1 for step in held if step + 1 not in held]
    assert all(end % DECIDE_EVERY_STEPS == 0 for end in ends[:-1])
    assert guard.num_trips >= 2  # it tried again, and saw it again


def test_each_trip_adds_caution_and_calm_pairs_take_it_back() -> None:
    source = random.Random(7)
    guard = Guard(GuardSettings(bound=0.01, dense_steps=100_000))
    play(guard, range(1000), slowdown=0.10, noise=0.01, source=source)
    assert guard.num_trips > MOST_CAUTION
    assert guard.caution == MOST_CAUTION
    steps_per_pair = 3
    first = guard._retry_at_step // DECIDE_EVERY_STEPS * DECIDE_EVERY_STEPS
    calm = range(first, first + (CALM_PAIRS + 20) * steps_per_pair)
    play(guard, calm, slowdown=0.0, noise=0.01, source=source)
    assert guard.caution == MOST_CAUTION - 1


def test_time_held_doubles_with_each_trip_and_shrinks_again_with_calm() -> None:
    source = random.Random(7)
    guard = Guard(GuardSettings(bound=0.01, dense_steps=100_000))
    play(guard, range(3000), slowdown=0.10, noise=0.01, source=source)
    trips = guard.num_trips
    assert trips >= 5
    begin = guard._retry_at_step + DECIDE_EVERY_STEPS
    calm = range(begin, begin + 3 * CALM_PAIRS * trips)
    play(guard, calm, slowdown=0.0, noise=0.01, source=source)
    assert guard.num_trips == trips
    after = range(calm.stop, calm.stop + 100)
    held = play(guard, after, slowdown=0.10, noise=0.01, source=source)
    first_again = next(step for step in range(held[0], after.stop) if step not in held)
    assert first_again - held[0] <= 3 * DECIDE_EVERY_STEPS


def test_no_trip_when_the_trial_costs_nothing() -> None:
    source = random.Random(11)
    guard = Guard(GuardSettings(bound=0.01, dense_steps=10_000))
    assert play(guard, range(1000), slowdown=0.0, noise=0.02, source=source) == []


def test_pairs_without_a_tenant_show_the_noise_but_are_no_evidence() -> None:
    """Ten percent are nothing beside this noise, and the guard knows it before the first tenant."""
    source = random.Random(17)
    guard = Guard(GuardSettings(bound=0.01, dense_steps=10_000))
    for step in range(160):
        step_ns = int(1e8 * source.gauss(1, 0.3))
        shut = is_shut(step, guard.settings)
        guard.observe(step=step, step_ns=step_ns, was_shut=shut, was_shared=False)
        assert not guard.decide(step + 1)
    held = play(guard, range(160, 180), slowdown=0.1, noise=0.3, source=source)
    assert held == []


def test_steps_without_a_tenant_are_not_compared() -> None:
    guard = Guard(GuardSettings(dense_steps=1000))
    for step in range(100):
        shut = is_shut(step, guard.settings)
        guard.observe(step=step, step_ns=10**8, was_shut=shut, was_shared=False)
    assert guard.estimate().num_pairs == 0


def test_step_times_are_medians_over_the_pairs() -> None:
    source = random.Random(13)
    guard = Guard(GuardSettings(bound=0.9, dense_steps=1000))
    play(guard, range(400), slowdown=0.2, noise=0.001, source=source)
    open_ns, shut_ns = guard.step_times_ns()
    assert statistics.fmean([open_ns / shut_ns]) == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize("bound", [0.0, 1.0, -1.0])
def test_bound_that_is_no_fraction_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="fraction between 0 and 1"):
        GuardSettings(bound=bound)
