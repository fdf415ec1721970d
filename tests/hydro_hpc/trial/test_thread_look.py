"""A look at the primary's thread, late in a window: could it run?"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydro_hpc.devices.cpu_core import PrimaryThread
from hydro_hpc.page import Page
from hydro_hpc.trial import points
from hydro_hpc.trial.points import (
    NAP_S,
    NUM_NAPS,
    PlainThreadLook,
    ThreadLook,
    fast_thread_look,
)
from tests.hydro_hpc.lanes import make_lane, stage_page
from tests.hydro_hpc.trial.lane_passage import MS, Lane

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
