"""Futexes on shared pages, between real processes."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind
from hydro_hpc.wait import FutexWord
from tests.hydro_hpc.lanes import make_lane, stage_page

pytestmark = pytest.mark.processes


def _wait_for_change(lane: str, ready: Connection) -> None:
    page = Page.map_for_reading(page_path(lane, PageKind.STAGE), PageKind.STAGE)
    word = FutexWord(page, "gate_word")
    index = page.word_index("gate_word")
    ready.send("ready")
    while page.words[index] == 0:
        word.wait_change(0, 10.0)
    ready.send(page.words[index])


def test_sleeper_with_a_read_only_mapping_is_woken(tmp_path: Path) -> None:
    lane = make_lane(tmp_path)
    page = stage_page(lane)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_wait_for_change, args=(lane, theirs)
    )
    process.start()
    assert ours.recv() == "ready"
    page.words[page.word_index("gate_word")] = 77
    FutexWord(page, "gate_word").wake_all()
    assert ours.poll(5)
    assert ours.recv() == 77
    process.join(5)
    assert process.exitcode == 0


def test_changed_word_does_not_sleep_and_timeout_ends_it(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    word = FutexWord(page, "gate_word")
    started = time.monotonic()
    word.wait_change(seen=5, timeout_s=60.0)  # it is 0, not 5
    word.wait_change(seen=0, timeout_s=0.02)
    assert 0.02 <= time.monotonic() - started < 30
