from __future__ import annotations

from hydro_hpc.report.bubbles import find_bubbles, intervals_of
from tests.hydro_hpc.report.recordings import MS, wait


def test_waits_of_less_than_two_milliseconds_are_no_bubbles() -> None:
    found = find_bubbles([wait(10, 11.9), wait(20, 22)])
    assert intervals_of(found) == [(20 * MS, 22 * MS)]


def test_near_waits_are_one_bubble() -> None:
    found = find_bubbles([wait(10, 11.1), wait(11.25, 12.2), wait(12.4, 14)])
    assert intervals_of(found) == [(10 * MS, int(12.2 * MS))]  # a gap of 200 us parts


def test_a_bubble_has_its_longest_prediction_and_its_first_opening() -> None:
    waits = [
        wait(10, 12, predicted_ms=1),
        wait(12.1, 14, predicted_ms=6, opened_ms=12.2),
        wait(14.1, 16, predicted_ms=3, opened_ms=14.2),
    ]
    (bubble,) = find_bubbles(waits)
    assert bubble.predicted_ns == 6 * MS
    assert bubble.opened_ns == int(12.2 * MS)
