"""Points and the passage to the gate: the C part and its Python twin do the same."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hydro_hpc.devices.cpu_core import PrimaryThread
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, PageKind, Word
from hydro_hpc.trial import points
from hydro_hpc.trial.points import (
    FIRST_SLEEP_NS,
    LOOK_EVERY_NS,
    NAP_S,
    NUM_NAPS,
    PlainPassage,
    PlainPoints,
    PlainThreadLook,
    ThreadLook,
    fast_passage,
    fast_thread_look,
)
from hydro_hpc.wait import FutexWord
from tests.hydro_hpc.lanes import make_lane, stage_page

MS = 1_000_000
WORD = 1 << 8 | GATE_OPEN
needs_c = pytest.mark.skipif(not points.HAS_C, reason="the C part was not built")
KINDS = [pytest.param(False, id="Python"), pytest.param(True, id="C", marks=needs_c)]


def test_c_part_is_built_where_there_is_a_compiler() -> None:
    assert points.HAS_C or shutil.which("gcc") is None


class Asked(Exception):  # noqa: N818
    """What `ask` raises, to be seen by the caller of the passage."""


class Lane:
    """A stage page, a passage to its gate, and what that asked."""

    def __init__(self, directory: Path, *, in_c: bool, wants: ThreadLook | None = None) -> None:
        lane = make_lane(directory)
        self.page = stage_page(lane)
        read = Page.map_for_reading(page_path(lane, PageKind.STAGE), PageKind.STAGE)
        self.futex = FutexWord(self.page, "gate_word")
        self.asked: list[int] = []
        self.num_wants = 0
        self.wants: bool | Exception = False
        make: Callable[..., Any] = fast_passage if in_c else PlainPassage
        self.look = wants or PlainThreadLook(self.page)
        self.site = Page.map_for_changing(page_path(lane, PageKind.SITE), PageKind.SITE)
        for name in ("guard_word", "owner_word"):
            self.page.set(name, Word.RUN)
        self.passage = make(
            read,
            Page.map_for_reading(page_path(lane, PageKind.SITE), PageKind.SITE),
            ask=self.asked.append,
            wants=self._wants if wants is None else wants,
            waiter=FutexWord(read, "gate_word"),
            now_ns=time.monotonic_ns,
            device_ns=time.thread_time_ns,
        )
        self.page.set("gate_word", WORD)
        self.passage.word = WORD

    def _wants(self) -> bool:
        self.num_wants += 1
        if isinstance(self.wants, Exception):
            raise self.wants
        return self.wants

    def admit_for(self, length_ns: int) -> None:
        self.passage.deadline_ns = time.monotonic_ns() + length_ns
        self.passage.careful_ns = self.passage.deadline_ns

    def write_when_a_run_has_ended(self, word: int) -> threading.Thread:
        def write() -> None:
            while not self.passage.has_ended:
                time.sleep(0.001)
            self.page.set("gate_word", word)
            self.futex.wake_all()

        thread = threading.Thread(target=write)
        thread.start()
        return thread


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


MakeLook = Callable[[Page], ThreadLook]
LOOKS = pytest.mark.parametrize("make", [fast_thread_look, PlainThreadLook])


@LOOKS
def test_look_at_a_thread_says_whether_it_could_run(tmp_path: Path, make: MakeLook) -> None:
    look = make(stage_page(make_lane(tmp_path)))
    assert not look()
    own = PrimaryThread(os.getpid())
    look.fd = own.fd
    assert threading.current_thread() is threading.main_thread()
    assert look()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            other = PrimaryThread(sleeper.pid)
            look.fd = other.fd
            give_up = time.monotonic() + 10
            while look():  # until it has begun to sleep
                assert time.monotonic() < give_up
        finally:
            sleeper.kill()
    assert not look()


@LOOKS
def test_primary_is_let_block_for_two_milliseconds_at_most(tmp_path: Path, make: MakeLook) -> None:
    page = stage_page(make_lane(tmp_path))
    look = make(page)
    nobody_ns = shortest_ns(look.let_block)
    with spinning() as pid:
        spinner = PrimaryThread(pid)
        look.fd = spinner.fd
        spinner_ns = shortest_ns(look.let_block)
        with changing(page):
            changed_ns = shortest_ns(look.let_block)
    assert nobody_ns < changed_ns < spinner_ns
    assert spinner_ns >= NUM_NAPS * NAP_S * 1e9


def shortest_ns(call: Callable[[], None]) -> int:
    def taken_ns() -> int:
        before_ns = time.monotonic_ns()
        call()
        return time.monotonic_ns() - before_ns

    return min(taken_ns() for _ in range(30))


@contextlib.contextmanager
def spinning() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def changing(page: Page) -> Iterator[None]:
    """The gate word changes every now and then."""
    is_over = threading.Event()

    def change() -> None:
        word = 0
        while not is_over.wait(0.0003):
            word += 1
            page.set("gate_word", word)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_passage_looks_at_a_thread(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path / "other"))
    lane = Lane(tmp_path, in_c=points.HAS_C, wants=fast_thread_look(page))
    own = PrimaryThread(os.getpid())
    lane.admit_for(1000 * MS)
    lane.passage.careful_ns = 0
    lane.passage(MS)
    assert lane.asked == []
    lane.look.fd = own.fd
    lane.passage(MS)
    assert lane.asked == [MS]


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


class Step:
    """Points, and what they did."""

    def __init__(self, *, in_c: bool) -> None:
        self.admitted: list[int] = []
        self.learned: list[str] = []
        make: Callable[..., Any] = points._points.Points if in_c else PlainPoints
        self.points = make(admit=self.admitted.append, learn=self.learned.append, rest_ns=99)


@pytest.fixture(params=KINDS)
def step(request: pytest.FixtureRequest) -> Step:
    return Step(in_c=request.param)


def test_points_are_silent_outside_of_a_step(step: Step) -> None:
    step.points.group([5])
    step.points.pass_("a")
    step.points.begin()
    step.points.end()
    step.points.pass_("a")
    assert (step.admitted, step.learned) == ([], [])


def test_points_are_learned_until_they_are_grouped(step: Step) -> None:
    step.points.begin()
    step.points.pass_("a")
    step.points.named("b")("what", "a", "hook", "gets")
    assert (step.admitted, step.learned) == ([], ["a", "b"])


def test_first_point_of_a_group_asks_and_unknown_ones_ask_for_the_rest(step: Step) -> None:
    step.points.group([7, 0, 8])
    for _ in range(2):
        step.points.begin()
        for key in "abcd":
            step.points.pass_(key)
    assert step.admitted == [7, 8, 99] * 2


def test_groups_can_be_forgotten(step: Step) -> None:
    step.points.group([7])
    step.points.group([])
    step.points.begin()
    step.points.pass_("a")
    assert step.learned == ["a"]


def test_copy_of_a_model_shares_its_points(step: Step) -> None:
    point = step.points.named("a")
    assert copy.deepcopy({"hook": point})["hook"] is point


@needs_c
def test_points_pass_through_a_passage_of_the_same_kind(tmp_path: Path) -> None:
    lane = Lane(tmp_path, in_c=True)
    made = points.make_points(admit=lane.passage, learn=lambda _: None, rest_ns=1)
    made.group([MS, 2 * MS])
    made.begin()
    lane.admit_for(1000 * MS)
    made.pass_("a")
    lane.passage.deadline_ns = 0
    made.pass_("b")
    assert lane.asked == [2 * MS]
