"""Predictions of waits from the steps before."""

from __future__ import annotations

import pytest

from hydro_hpc.primary.windows import NUM_NEEDED, Windows


def run_step(windows: Windows, waits: list[tuple[str, int]]) -> list[int]:
    """Plays one step and returns what was predicted for each call."""
    predicted = []
    for name, wait_ns in waits:
        predicted.append(windows.predict_ns(name))
        windows.observe(name, wait_ns)
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
    for wait_ns in (10, 11, 12, 9_000, 10):
        run_step(windows, [("recv", wait_ns)])
    assert run_step(windows, [("recv", 0)]) == [10]


@pytest.mark.parametrize(("before", "after", "steps"), [(1000, 10, 4), (10, 1000, 6)])
def test_shorter_waits_are_learned_sooner_than_longer_ones(
    before: int, after: int, steps: int
) -> None:
    windows = Windows()
    for _ in range(50):
        run_step(windows, [("recv", before)])
    for _ in range(steps):
        run_step(windows, [("recv", after)])
    assert run_step(windows, [("recv", after)]) == [after]


def test_a_third_of_the_waits_undercut_the_prediction() -> None:
    windows = Windows()
    for wait_ns in (9, 1, 8, 2, 7, 3, 6, 4, 5):
        run_step(windows, [("recv", wait_ns)])
    assert run_step(windows, [("recv", 0)]) == [4]


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
