"""A lane's passage to its gate, in C or in Python, and what it asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind, Word
from hydro_hpc.trial import points
from hydro_hpc.trial.points import PlainPassage, PlainThreadLook, ThreadLook, fast_passage
from hydro_hpc.wait import FutexWord
from tests.hydro_hpc.lanes import make_lane, stage_page

MS: Final = 1_000_000
WORD: Final = 1 << 8 | GATE_OPEN
needs_c = pytest.mark.skipif(not points.HAS_C, reason="the C part was not built")
KINDS: Final = [pytest.param(False, id="Python"), pytest.param(True, id="C", marks=needs_c)]


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
