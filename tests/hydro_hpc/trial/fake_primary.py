"""A gate on a fake clock, with real pages, and the primary that opens it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, PageKind, Word
from hydro_hpc.trial.gate import (
    LaneGate,
)
from tests.hydro_hpc.lanes import stage_page

MS: Final = 1_000_000
MARGIN_NS: Final = MS // 5


class FakePrimary:
    """Clock, primary and waiter in one: a gate that sleeps makes the next scripted thing happen."""

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.page = stage_page(lane)
        self.now_ns = 1000 * MS
        self.device_ns = 0
        self.epoch = 0
        self.script: list[Callable[[], None]] = []
        self.num_sleeps = 0
        self.page.set("guard_word", Word.RUN)
        self.page.set("owner_word", Word.RUN)
        self.close()

    def open(self, window_ns: int, *, late_ns: int = 0) -> None:
        self.epoch += 1
        self.page.words[self.page.word_index("window_us")] = window_ns // 1000
        self.page.words[self.page.word_index("late_us")] = late_ns // 1000
        self.page.set("open_ns", self.now_ns)
        self.page.set("gate_word", self.epoch << 8 | GATE_OPEN)

    def close(self) -> None:
        self.page.set("close_ns", self.now_ns)
        self.page.set("gate_word", self.epoch << 8 | GATE_CLOSED)

    def work(self, length_ns: int) -> None:
        self.now_ns += length_ns
        self.device_ns += length_ns

    def wait_change(self, seen: int, timeout_s: float) -> None:
        self.num_sleeps += 1
        self.now_ns += MS
        if not self.script:
            pytest.fail(f"the gate sleeps on {seen:#x} and nothing would wake it in {timeout_s} s")
        self.script.pop(0)()


def make_gate(primary: FakePrimary, **settings: Any) -> LaneGate:
    return LaneGate(
        **settings,
        stage=Page.map_for_reading(page_path(primary.lane, PageKind.STAGE), PageKind.STAGE),
        site=Page.map_for_reading(page_path(primary.lane, PageKind.SITE), PageKind.SITE),
        waiter=primary,
        trial=Page.map_for_writing(page_path(primary.lane, PageKind.TRIAL), PageKind.TRIAL),
        margin_ns=MARGIN_NS,
        now_ns=lambda: primary.now_ns,
        device_ns=lambda: primary.device_ns,
    )


def trial_page(primary: FakePrimary) -> Page:
    return Page.read_copy(page_path(primary.lane, PageKind.TRIAL), PageKind.TRIAL)
