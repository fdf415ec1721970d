"""Predictions of waits from the steps before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.primary.windows import (
    EARLY_END_NS,
    LATE_AFTER_NS,
    NUM_NEEDED,
    OPENING_NS,
    USED_FROM_NS,
    WORTH_OPENING_NS,
    Window,
    Windows,
    plan,
)

MS = 1_000_000


def run_step(windows: Windows, waits: list[tuple[str, float]]) -> list[float]:
    """Plays one step, waits in ms, and returns what was predicted for each call, in ms."""
    predicted = []
    for name, wait_ms in waits:
        predicted.append(windows.expect(name).until_ns / MS)
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


@pytest.mark.parametrize(("before", "after"), [(100, 10), (10, 100)])
def test_changed_training_is_predicted_from_its_third_step_on(before: int, after: int) -> None:
    windows = Windows()
    for _ in range(50):
        run_step(windows, [("recv", before), ("recv", before / 2)])
    for _ in range(2):
        run_step(windows, [("recv", after), ("recv", after / 2)])
    assert run_step(windows, [("recv", after), ("recv", after / 2)]) == [after, after / 2]


def test_one_step_unlike_the_others_changes_nothing() -> None:
    """A checkpoint, an evaluation, a skipped step."""
    windows = Windows()
    for _ in range(20):
        run_step(windows, [("recv", 20), ("all_reduce", 10)])
    for wait_ms in (900, 0.1):
        run_step(windows, [("recv", wait_ms), ("all_reduce", wait_ms)])
        for _ in range(2):
            assert run_step(windows, [("recv", 20), ("all_reduce", 10)]) == [20, 10]


def test_even_waits_are_undercut_seldom_and_uneven_ones_often() -> None:
    even = [int(ms * MS) for ms in (12.9, 13.3, 13.8, 14, 14.2, 14.5, 14.6, 14.8, 15)]
    uneven = [int(ms * MS) for ms in (5.8, 8, 10.2, 12, 14.6, 17, 19.7, 22, 24.4)]
    assert plan(even).until_ns == 13.8 * MS  # what a longer one adds is less than early ends cost
    assert plan(uneven).until_ns == 22 * MS


def test_wait_that_outlasts_the_usual_is_used_again_after_it() -> None:
    assert plan([10 * MS] * 9) == (10 * MS, 10 * MS + LATE_AFTER_NS, True)
    assert plan([10 * MS] * 7 + [40 * MS] * 2) == (10 * MS, 10 * MS + LATE_AFTER_NS, True)


def test_call_that_is_usually_short_is_opened_for_the_times_when_it_is_not() -> None:
    seldom = plan([MS] * 7 + [20 * MS] * 2)
    assert seldom == (0, MS + LATE_AFTER_NS, True)
    assert not plan([MS] * 8 + [2 * MS]).is_worth_opening
    assert not plan([MS // 10] * 9).is_worth_opening


@given(st.lists(st.integers(0, 50 * MS), min_size=NUM_NEEDED, max_size=9))
def test_the_plan_is_the_best_of_all(waits_ns: list[int]) -> None:
    """Against the definition, computed anew for every pair of deadline and late start."""

    def worth(until_ns: int, late_ns: int) -> int:
        used = [max(0, min(wait, until_ns) - USED_FROM_NS) for wait in waits_ns]
        early = [wait for wait in waits_ns if USED_FROM_NS < wait < until_ns]
        late = [wait - late_ns for wait in waits_ns if wait > late_ns]
        used_late = sum(max(0, rest - USED_FROM_NS) for rest in late)
        return sum(used) + used_late - EARLY_END_NS * (len(early) + len(late))

    deadlines = [0, *(wait for wait in sorted(waits_ns)[:-1] if wait >= WORTH_OPENING_NS)]
    best = max(
        worth(until_ns, start_ns + LATE_AFTER_NS)
        for until_ns in deadlines
        for start_ns in waits_ns
        if start_ns >= until_ns
    )
    found = plan(waits_ns)
    if max(waits_ns) < WORTH_OPENING_NS:
        assert found == Window()
    else:
        assert worth(found.until_ns, found.late_ns) == best
        assert found.is_worth_opening == (best >= EARLY_END_NS + OPENING_NS * len(waits_ns))
        assert found.until_ns == 0 or found.late_ns >= found.until_ns + LATE_AFTER_NS


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
