"""Predictions of waits from the steps before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.primary.windows import (
    EARLY_END_NS,
    NUM_NEEDED,
    USED_FROM_NS,
    Windows,
    best_deadline_ns,
)

MS = 1_000_000


def run_step(windows: Windows, waits: list[tuple[str, float]]) -> list[float]:
    """Plays one step, waits in ms, and returns what was predicted for each call, in ms."""
    predicted = []
    for name, wait_ms in waits:
        predicted.append(windows.predict_ns(name) / MS)
        windows.observe(name, int(wait_ms * MS))
    windows.end_step()
    return predicted


def test_nothing_is_predicted_before_enough_steps() -> None:
    windows = Windows()
    for _ in range(NUM_NEEDED):
        assert run_step(windows, [("recv", 10), ("all_reduce", 20)]) == [0, 0]
    assert run_step(windows, [("recv", 10), ("all_reduce", 20)]) == [10, 20]


def test_same_call_at_two_places_of_a_step_is_two_predictions() -> None:
    windows = Windows()
    for _ in range(4):
        run_step(windows, [("recv", 5), ("recv", 900)])
    assert run_step(windows, [("recv", 5), ("recv", 900)]) == [5, 900]


def test_one_outlier_does_not_move_the_prediction() -> None:
    windows = Windows()
    for wait_ms in (10, 10, 10, 9_000, 10):
        run_step(windows, [("recv", wait_ms)])
    assert run_step(windows, [("recv", 0)]) == [10]


@pytest.mark.parametrize(("before", "after", "steps"), [(100, 10, 8), (10, 100, 8)])
def test_changed_waits_are_learned_within_the_steps_remembered(
    before: int, after: int, steps: int
) -> None:
    windows = Windows()
    for _ in range(50):
        run_step(windows, [("recv", before)])
    for _ in range(steps):
        run_step(windows, [("recv", after)])
    assert run_step(windows, [("recv", after)]) == [after]


def test_even_waits_are_undercut_seldom_and_uneven_ones_often() -> None:
    even = [int(ms * MS) for ms in (10.9, 12.5, 13, 14, 14.2, 14.5, 15, 15.4, 16.3)]
    uneven = [int(ms * MS) for ms in (5.8, 8, 10.2, 12, 14.6, 17, 19.7, 22, 24.4)]
    assert best_deadline_ns(even) == 14 * MS  # what a longer one adds is less than early ends cost
    assert best_deadline_ns(uneven) == 22 * MS


def test_waits_too_short_to_wake_a_trial_are_worth_nothing() -> None:
    assert best_deadline_ns([USED_FROM_NS] * 9) == 0
    assert best_deadline_ns([USED_FROM_NS // 2] * 7 + [2 * EARLY_END_NS] * 2) == 2 * EARLY_END_NS


@given(st.lists(st.integers(0, 50 * MS), min_size=1, max_size=9))
def test_the_best_deadline_is_the_best_of_all(waits_ns: list[int]) -> None:
    """Against the definition, computed anew for every candidate."""

    def worth(deadline_ns: int) -> int:
        used = [max(0, min(wait, deadline_ns) - USED_FROM_NS) for wait in waits_ns]
        early = [wait for wait in waits_ns if USED_FROM_NS < wait < deadline_ns]
        return sum(used) - EARLY_END_NS * len(early)

    found = best_deadline_ns(waits_ns)
    candidates = sorted(waits_ns)[:-1]
    assert found == 0 or found in candidates
    assert worth(found) == max([0, *map(worth, candidates)])


def test_step_of_another_shape_is_forgotten_from_where_it_differs() -> None:
    windows = Windows()
    for _ in range(5):
        run_step(windows, [("recv", 10), ("send", 20), ("recv", 30)])
    assert run_step(windows, [("recv", 10), ("barrier", 1), ("recv", 30)]) == [10, 0, 0]
    assert run_step(windows, [("recv", 10), ("barrier", 1)]) == [10, 0]


def test_shorter_step_keeps_what_is_known_of_the_longer_one() -> None:
    windows = Windows()
    for _ in range(5):
        run_step(windows, [("recv", 10), ("broadcast", 40)])
    run_step(windows, [("recv", 10)])
    assert run_step(windows, [("recv", 10), ("broadcast", 40)]) == [10, 40]
