"""The passage to the gate: the C part and its Python twin do the same."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from pathlib import Path

import pytest

from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, Word
from hydro_hpc.trial import points
from hydro_hpc.trial.points import (
    FIRST_SLEEP_NS,
    LOOK_EVERY_NS,
)
from tests.hydro_hpc.lanes import make_lane, stage_page
from tests.hydro_hpc.trial.lane_passage import KINDS, MS, Lane, needs_c


class Asked(Exception):  # noqa: N818
    """What `ask` raises, to be seen by the caller of the passage."""


@pytest.fixture(params=KINDS)
def lane(tmp_path: Path, request: pytest.FixtureRequest) -> Lane:
    return Lane(tmp_path, in_c=request.param)


def test_work_that_ends_before_the_deadline_passes(lane: Lane) -> None:
    lane.admit_for(1000 * MS)
    lane.passage(MS)
    assert lane.asked == []
    assert not lane.passage.has_ended


def test_everything_is_asked_for_while_nothing_is_admitted(lane: Lane) -> None:
    lane.passage(MS)
    assert lane.asked == [MS]
    assert not lane.passage.has_ended


def test_run_that_reached_its_deadline_ends_and_sleeps_until_the_word_changes(lane: Lane) -> None:
    lane.admit_for(MS)
    before_ns = time.monotonic_ns()
    thread = lane.write_when_a_run_has_ended(2 << 8 | GATE_OPEN)
    lane.passage(10 * MS)
    thread.join()
    assert lane.asked == [10 * MS]
    assert time.monotonic_ns() - before_ns < FIRST_SLEEP_NS
    assert before_ns <= lane.passage.ended_ns <= time.monotonic_ns()
    assert 0 < lane.passage.ended_device_ns <= time.thread_time_ns()
    assert not lane.passage.was_closed
    assert lane.passage.deadline_ns == 0


def test_run_whose_window_closed_ends_with_the_time_of_that(lane: Lane) -> None:
    lane.admit_for(1000 * MS)
    lane.page.set("close_ns", 12345)
    lane.page.set("gate_word", 1 << 8 | GATE_CLOSED)
    thread = lane.write_when_a_run_has_ended(2 << 8 | GATE_OPEN)
    lane.passage(MS)
    thread.join()
    assert lane.passage.was_closed
    assert lane.passage.closed_ns == 12345
    assert lane.asked == [MS]


def test_window_that_is_open_already_is_asked_for_at_once(lane: Lane) -> None:
    lane.admit_for(1000 * MS)
    lane.page.set("gate_word", 2 << 8 | GATE_OPEN)
    before_ns = time.monotonic_ns()
    lane.passage(MS)
    assert lane.asked == [MS]
    assert time.monotonic_ns() - before_ns < FIRST_SLEEP_NS


def test_sleep_ends_at_the_late_start_of_the_same_window(lane: Lane) -> None:
    lane.admit_for(MS)
    lane.passage.late_ns = late_ns = time.monotonic_ns() + 20 * MS
    lane.passage(10 * MS)
    assert late_ns <= time.monotonic_ns() < late_ns + FIRST_SLEEP_NS // 2


def test_late_start_of_a_window_that_has_closed_meanwhile_is_slept_through(lane: Lane) -> None:
    lane.admit_for(MS)
    lane.passage.late_ns = late_ns = time.monotonic_ns() + 20 * MS

    def close_and_open() -> None:
        while not lane.passage.has_ended:
            time.sleep(0.001)
        lane.page.set("gate_word", 1 << 8 | GATE_CLOSED)  # nobody is woken
        while time.monotonic_ns() < late_ns + 50 * MS:
            time.sleep(0.001)
        lane.page.set("gate_word", 2 << 8 | GATE_OPEN)
        lane.futex.wake_all()

    thread = threading.Thread(target=close_and_open)
    thread.start()
    lane.passage(10 * MS)
    assert late_ns + 50 * MS <= time.monotonic_ns() < late_ns + FIRST_SLEEP_NS // 2
    thread.join()


def test_nobody_sleeps_who_is_to_leave(lane: Lane) -> None:
    lane.admit_for(MS)
    lane.passage.is_leaving = True
    before_ns = time.monotonic_ns()
    lane.passage(10 * MS)
    assert time.monotonic_ns() - before_ns < FIRST_SLEEP_NS // 2
    assert lane.asked == [10 * MS]


def test_primary_is_looked_at_each_time_late_in_a_window(lane: Lane) -> None:
    lane.admit_for(1000 * MS)
    lane.passage(MS)
    seen = lane.num_wants
    lane.passage.careful_ns = time.monotonic_ns()
    lane.passage(MS)
    assert (lane.num_wants, lane.asked) == (seen + 1, [])
    lane.wants = True
    lane.passage(MS)
    assert (lane.num_wants, lane.asked) == (seen + 2, [MS])


def test_primary_is_looked_at_every_half_millisecond(lane: Lane) -> None:
    lane.admit_for(1000 * MS)
    before_ns = time.monotonic_ns()
    lane.passage(MS)
    while time.monotonic_ns() < before_ns + 3 * LOOK_EVERY_NS:
        lane.passage(MS)
    num_looks = (time.monotonic_ns() - before_ns) // LOOK_EVERY_NS + 2
    assert 2 <= lane.num_wants <= num_looks
    lane.wants = True
    while not lane.asked:
        lane.passage(MS)


def test_what_a_look_at_the_primary_raises_comes_through(lane: Lane) -> None:
    lane.admit_for(1000 * MS)
    lane.passage.careful_ns = 0
    lane.wants = Asked()
    with pytest.raises(Asked):
        lane.passage(MS)


@pytest.mark.parametrize("who", ["guard_word", "owner_word", "site_word"])
def test_nothing_passes_in_mid_window_when_somebody_says_hold(lane: Lane, who: str) -> None:
    lane.admit_for(1000 * MS)
    lane.passage(MS)
    assert lane.asked == []
    (lane.site if who == "site_word" else lane.page).set(who, Word.HOLD)
    lane.passage(MS)
    assert lane.asked == [MS]


def test_signal_in_the_sleep_before_a_late_start_is_heeded_at_once(lane: Lane) -> None:
    """Its handler runs in this thread, which sleeps on the gate."""
    lane.admit_for(MS)
    lane.passage.late_ns = time.monotonic_ns() + FIRST_SLEEP_NS - 10 * MS

    def leave(*_: object) -> None:
        lane.passage.is_leaving = True

    before = signal.signal(signal.SIGALRM, leave)
    try:
        close = threading.Timer(0.02, lane.page.set, ("gate_word", 1 << 8 | GATE_CLOSED))
        close.start()  # which wakes nobody
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        before_ns = time.monotonic_ns()
        lane.passage(10 * MS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        close.join()
    assert time.monotonic_ns() - before_ns < FIRST_SLEEP_NS // 2


def test_need_that_is_no_number_is_refused(lane: Lane) -> None:
    with pytest.raises(TypeError):
        lane.passage("1 ms")


@needs_c
def test_passage_and_its_gate_are_collected_together(tmp_path: Path) -> None:
    lane = Lane(tmp_path, in_c=True)
    seen = weakref.ref(lane)
    del lane
    gc.collect()
    assert seen() is None


@needs_c
def test_field_outside_of_the_page_is_refused(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    with pytest.raises(IndexError, match="outside"):
        points._points.Passage(
            page.mapping(),
            page.mapping(),
            gate_index=10**9,
            guard_index=0,
            owner_index=0,
            site_index=0,
            closed_index=0,
            first_sleep_ns=0,
            look_every_ns=0,
            ask=lambda _: None,
            wants=lambda: False,
        )
