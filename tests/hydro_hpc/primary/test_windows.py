"""Predictions of waits from the steps before."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.primary.windows import (
    EARLY_END_NS,
    LATE_AFTER_NS,
    LATE_WAKE_NS,
    MOST_PLACES,
    NUM_NEEDED,
    OPENING_NS,
    USED_FROM_NS,
    WORTH_OPENING_NS,
    Call,
    Window,
    Windows,
    plan,
)

MS = 1_000_000


COMPUTING_NS = 3 * MS  # between two calls


def run_step(
    windows: Windows, waits: list[tuple[str, float]], *, computing_ns: int = COMPUTING_NS
) -> list[float]:
    """Plays one step, waits in ms, and returns what was predicted for each call's wait, in ms."""
    predicted = []
    for name, wait_ms in waits:
        started_ns = (windows.ended_ns or 1000 * MS) + computing_ns
        until_ns, _ = windows.expect(name).since(computing_ns)
        predicted.append(until_ns / MS)
        windows.observe(name, started_ns=started_ns, ended_ns=started_ns + int(wait_ms * MS))
    windows.end_step()
    return predicted


def calls(*waits_ms: float) -> list[Call]:
    return [Call(0, int(ms * MS)) for ms in waits_ms]


def test_nothing_is_predicted_before_enough_steps() -> None:
    windows = Windows()
    for _ in range(NUM_NEEDED):
        assert run_step(windows, [("recv", 10), ("all_reduce", 20)]) == [0, 0]
    # the job's first call of all follows no other
    assert run_step(windows, [("recv", 10), ("all_reduce", 20)]) == [0, 20]
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
    even = calls(12.9, 13.3, 13.8, 14, 14.2, 14.5, 14.6, 14.8, 15)
    uneven = calls(*UNEVEN_MS)
    assert plan(even).until_ns == 13.8 * MS  # what a longer one adds is less than early ends cost
    assert plan(uneven).until_ns == 22 * MS


UNEVEN_MS = (5.8, 8, 10.2, 12, 14.6, 17, 19.7, 22, 24.4)


def test_caution_makes_early_ends_rarer() -> None:
    deadlines = [
        plan(calls(*UNEVEN_MS), early_end_ns=EARLY_END_NS << caution).until_ns
        for caution in range(4)
    ]
    assert deadlines == sorted(deadlines, reverse=True)
    assert deadlines[3] < deadlines[0]


def test_wait_that_outlasts_the_usual_is_used_again_after_it() -> None:
    even = plan(calls(*[10] * 9))
    assert (even.until_ns, even.late_ns) == (10 * MS, 0)  # nothing that was seen is worth a wake-up
    seldom = plan(calls(*[10] * 7, 40, 40))
    assert (seldom.until_ns, seldom.late_ns) == (10 * MS, 10 * MS + LATE_AFTER_NS)


def test_call_that_is_usually_short_is_opened_for_the_times_when_it_is_not() -> None:
    seldom = plan(calls(*[1] * 6, 20, 20, 20))
    assert seldom.since(0) == (0, MS + LATE_AFTER_NS)  # until 1 ms it is not worth it
    assert seldom.is_worth_opening
    assert not plan(calls(*[1] * 8, 2)).is_worth_opening
    assert not plan(calls(*[0.1] * 9)).is_worth_opening


def test_wait_that_begins_late_ends_no_later() -> None:
    """The peer does not know how long this rank has computed."""
    windows = Windows()
    for _ in range(9):
        run_step(windows, [("recv", 20)])
    slow_ns = COMPUTING_NS + 8 * MS
    assert run_step(windows, [("recv", 12)], computing_ns=slow_ns) == [12]
    assert run_step(windows, [("recv", 0)], computing_ns=COMPUTING_NS + 20 * MS) == [0]


def test_checkpoint_between_two_steps_changes_nothing() -> None:
    windows = Windows()
    for _ in range(9):
        run_step(windows, [("recv", 20), ("all_reduce", 10)])
    assert run_step(windows, [("recv", 20), ("all_reduce", 10)], computing_ns=5000 * MS) == [0, 0]
    assert run_step(windows, [("recv", 20), ("all_reduce", 10)]) == [20, 10]
    assert [windows.expect("recv").late_ns] == [0]  # the wait has not outlasted anything


def test_call_that_usually_comes_too_late_to_wait_is_opened_when_it_comes_sooner() -> None:
    windows = Windows()
    for number in range(9):
        run_step(windows, [("recv", 2 if number == 4 else 1)], computing_ns=20 * MS)
    assert run_step(windows, [("recv", 1)], computing_ns=20 * MS) == [0]
    assert run_step(windows, [("recv", 11)], computing_ns=10 * MS) == [11]


@given(
    st.lists(
        st.tuples(st.integers(0, 50 * MS), st.integers(0, 50 * MS)),
        min_size=NUM_NEEDED,
        max_size=9,
    )
)
def test_the_plan_is_the_best_of_all(seen: list[tuple[int, int]]) -> None:
    """Against the definition, computed anew for every pair of deadline and late start."""
    began_ns = int(statistics.median(began for began, _ in seen))
    longest_ns = max(wait for _, wait in seen)
    ends = [
        (began if abs(began - began_ns) <= longest_ns else began_ns) + wait for began, wait in seen
    ]

    def worth(until_ns: int, late_ns: int) -> int:
        used = [max(0, min(end, until_ns) - began_ns - USED_FROM_NS) for end in ends]
        early = [end for end in ends if began_ns + USED_FROM_NS < end < until_ns]
        worth_ns = sum(used) - EARLY_END_NS * len(early)
        if late_ns:
            late = [end - late_ns for end in ends if end > late_ns]
            worth_ns += sum(max(0, rest - USED_FROM_NS) - EARLY_END_NS for rest in late)
            worth_ns -= LATE_WAKE_NS * (len(ends) - len(late))
        return worth_ns

    best = max(
        worth(until_ns, late_ns)
        for until_ns in (0, *sorted(ends)[:-1])
        for late_ns in (0, *(end + LATE_AFTER_NS for end in ends if end >= until_ns))
    )
    found = plan([Call(*one) for one in seen])
    if max(wait for _, wait in seen) < WORTH_OPENING_NS:
        assert found == Window()
    else:
        assert worth(found.until_ns, found.late_ns) == best
        needed_ns = EARLY_END_NS + OPENING_NS * len(ends)
        assert found.is_worth_opening == (best >= needed_ns)
        assert found.open_by_ns == began_ns + (best - needed_ns) // len(ends)
        assert found.late_ns == 0 or found.late_ns >= found.until_ns + LATE_AFTER_NS


USUAL = [("recv", 10.0), ("send", 1.0), ("all_reduce", 20.0)]
EVALUATING = [("broadcast", 30.0), ("recv", 5.0), *USUAL]


def test_evaluation_at_the_head_of_a_step_leaves_what_is_known_of_the_usual_one() -> None:
    windows = Windows()
    for _ in range(5):
        run_step(windows, USUAL)
    assert run_step(windows, EVALUATING) == [0, 0, 0, 0, 0]
    assert run_step(windows, USUAL) == [10, 0, 20]
    run_step(windows, EVALUATING)
    run_step(windows, USUAL)
    assert run_step(windows, EVALUATING) == [30, 5, 10, 0, 20]  # a shape of its own


def test_steps_of_two_shapes_in_turn_are_both_predicted() -> None:
    windows = Windows()
    for _ in range(4):
        run_step(windows, USUAL)
        run_step(windows, EVALUATING)
    assert run_step(windows, USUAL) == [10, 0, 20]
    assert run_step(windows, EVALUATING) == [30, 5, 10, 0, 20]


def test_only_the_last_steps_calls_say_whether_there_are_bubbles() -> None:
    windows = Windows()
    for _ in range(4):
        run_step(windows, [("recv", 1), ("recv", 30)])
    assert windows.has_worth_opening()
    for _ in range(4):
        run_step(windows, [("recv", 1)])
    assert not windows.has_worth_opening()


def test_step_without_an_end_takes_little_memory() -> None:
    """A rank that never steps an optimizer: all its calls are one step."""
    windows = Windows()
    for _ in range(3 * MOST_PLACES):
        windows.observe("recv", started_ns=1, ended_ns=2)
    assert len(windows._places) == MOST_PLACES
    assert len(windows._path) == MOST_PLACES - 1


def test_too_many_shapes_are_forgotten_and_the_usual_one_is_learned_again() -> None:
    windows = Windows()
    for number in range(MOST_PLACES):
        run_step(windows, [(f"call {number}", 5.0)])
    for _ in range(3):
        run_step(windows, USUAL)
    assert run_step(windows, USUAL) == [10, 0, 20]
    assert len(windows._places) < MOST_PLACES


def test_step_of_another_shape_is_unknown_from_where_it_differs() -> None:
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
