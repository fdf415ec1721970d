"""The gate: everything a trial does on the device asks here first, and sleeps here outside bubbles.

A trial may run while the gate word is OPEN and guard, owner and site all say RUN, and only if
what it is about to do ends before its own deadline: `opened + predicted - margin`. A window that
outlasts what was predicted may be used again from its late start on. CLOSED is a correction for
windows that ended early; the primary never waits for it to be noticed. Unknown, stale or torn
means pause.

One thread (the worker's) uses a gate. `leave` may be called from a signal handler of that thread.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page
from hydro_hpc.page_layout import GATE_OPEN, RecordKind, Word
from hydro_hpc.page_layout import Gate as GateWord
from hydro_hpc.trial.points import NEVER_NS, Passage, PlainPassage
from hydro_hpc.trial.run_notes import RunNotes
from hydro_hpc.wait import Waiter

SLEEP_S: Final = 1.0  # between looks at whether the primary still lives
EXCESS_NS: Final = 1_000_000  # beyond what a unit had asked for; widens the margin
MARGIN_MAX_NS: Final = 2_000_000
MARGIN_SHRINK: Final = 0.9  # per run
FIRST_NEED_NS: Final = 2_000_000  # of a piece of work that was never done before
FORGET: Final = 0.9  # of the longest piece, at each shorter one
WINDOWS_REMEMBERED: Final = 50
WINDOWS_UNTIL_STARVED: Final = 400  # all too short for one unit of work
CAREFUL_FROM: Final = 0.6  # of what a window may be used
LATE_RUN_NS: Final = 1_000_000_000  # after a late start, between looks at whether the primary lives


class LeaveRequested(BaseException):
    """The gang is leaving: unwind to where trials are checkpointed. Not an Exception on purpose:
    user code that catches every Exception must not swallow it."""


class StarvedError(LaneError):
    """The lane is there, but none of its windows is long enough."""


Cut = Callable[[str], None]
"""Ends a piece of work where a pause is possible, and begins the next one, of this name."""


class Gate(Protocol):
    """What training needs of a gate; `LaneGate` is the one of a lane."""

    num_samples: int

    @property
    def admit(self) -> Callable[[int], None]: ...

    def work(self, name: str) -> AbstractContextManager[Cut]: ...

    def doing(self, kind: RecordKind) -> AbstractContextManager[None]: ...

    def unbroken(self) -> AbstractContextManager[None]: ...


class LaneGate:
    """Admits units of work of known length into the windows of one lane."""

    def __init__(
        self,
        *,
        stage: Page,
        site: Page,
        waiter: Waiter,
        trial: Page | None,
        margin_ns: int,
        let_primary_block: Callable[[], None] = lambda: None,
        primary_wants_device: Callable[[], bool] = lambda: False,
        now_ns: Callable[[], int] = time.monotonic_ns,
        device_ns: Callable[[], int] = time.thread_time_ns,
        make_passage: Callable[..., Passage] = PlainPassage,
    ) -> None:
        """`trial` is the page this process writes, None if another one of the tenant writes it.

        `let_primary_block` is called when a window has opened, before it is used: on a device that
        both sides share by time, the primary still has to begin the wait that it announced.
        `primary_wants_device` is asked every now and then: a primary that is kept from a shared
        device cannot say CLOSED.
        """
        self._stage = stage
        self._site = site
        self._waiter = waiter
        self._trial = trial
        self._notes = RunNotes(stage=stage, trial=trial, now_ns=now_ns, device_ns=device_ns)
        self._passage = make_passage(
            stage,
            site,
            ask=functools.partial(self._admit, is_whole=False),
            wants=primary_wants_device,
            waiter=waiter,
            now_ns=now_ns,
            device_ns=device_ns,
        )
        self._let_primary_block = let_primary_block
        self._primary_wants_device = primary_wants_device
        self._now_ns = now_ns
        self._device_ns = device_ns
        self._words = stage.words
        self._quads = stage.quads
        self._gate = stage.word_index("gate_word")
        self._open_at = stage.quad_index("open_ns")
        self._until_us = stage.word_index("window_us")
        self._late_us = stage.word_index("late_us")
        self._site_words = site.words
        self._site_word = site.word_index("site_word")
        self._least_margin_ns = margin_ns
        self._margin_ns = float(margin_ns)
        self._until_ns = 0  # how long the window of the passage's word may be used
        self._is_unbroken = False
        self._reason: LeaveRequested | LaneError | None = None  # to leave, once that has ended
        self._num_too_short = 0
        self._windows_ns: deque[int] = deque(maxlen=WINDOWS_REMEMBERED)  # their lengths
        self._needs_ns: dict[str, int] = {}  # of pieces of work, by their name

    @property
    def num_samples(self) -> int:
        """Samples trained since the run began; who trains adds to it."""
        return self._notes.num_samples

    @num_samples.setter
    def num_samples(self, count: int) -> None:
        self._notes.num_samples = count

    @property
    def admit(self) -> Callable[[int], None]:
        """What returns once so many nanoseconds of device time fit into the open window, and sleeps
        until then. The same object each time: who asks often keeps it.

        Raises LeaveRequested after `leave`, LaneError when the primary or the lane is gone or
        no window is long enough.
        """
        return self._passage

    def _admit(self, need_ns: int, *, is_whole: bool) -> None:
        """`is_whole`: it cannot be cut, so the longest window of late is enough for it."""
        notes = self._notes
        passage = self._passage
        if passage.has_ended or not self._may_go_on(need_ns):
            self._end_run()
            if self._reason is None:
                self._wait_or_finish(need_ns, is_whole=is_whole)
        if notes.is_running:
            passage.deadline_ns = self._until_ns
            notes.write(margin_ns=int(self._margin_ns))
        else:
            notes.begin(passage.word)
            passage.deadline_ns = 0 if notes.unwritten else self._until_ns
        if passage.is_leaving or self._reason is not None:
            passage.deadline_ns = 0

    def _may_go_on(self, need_ns: int) -> bool:
        passage = self._passage
        end_ns = self._now_ns() + need_ns
        return (
            self._words[self._gate] == passage.word
            and self._passage.is_permitted()
            and end_ns <= self._until_ns
            and not passage.is_leaving
            and not self._primary_wants_device()
        )

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """What runs inside comes to its end even if the gang has to leave meanwhile: the rest of it
        is admitted at once, and LeaveRequested or LaneError is raised after it.

        StarvedError is raised in the middle: the primary lives, and the rest would fit no window.
        Whether guard, owner and site still permit the run is looked at here and in new windows.
        """
        self._is_unbroken = True
        if not self._passage.is_permitted():
            self._passage.deadline_ns = 0
        try:
            yield
        finally:
            self._is_unbroken = False
            reason, self._reason = self._reason, None
        if reason is not None:
            raise reason

    @contextmanager
    def work(self, name: str) -> Iterator[Cut]:
        """Admits a piece of work that cannot be paused, by what pieces of that name took before.

        Yields what to call where a pause is possible: it ends this piece and admits the next. A
        piece that is longer than every window starts with the longest: it may overrun, but it ends.
        """
        piece = name
        need_ns = started_ns = 0

        def begin(name: str) -> None:
            nonlocal piece, need_ns, started_ns
            piece = name
            need_ns = self._needs_ns.get(piece, FIRST_NEED_NS)
            self._admit(need_ns, is_whole=True)
            started_ns = self._device_ns()

        def end() -> None:
            used_ns = self._device_ns() - started_ns
            self._needs_ns[piece] = int(max(used_ns, FORGET * need_ns))

        def cut(next_name: str) -> None:
            end()
            begin(next_name)

        begin(name)
        yield cut
        end()

    @contextmanager
    def doing(self, kind: RecordKind) -> Iterator[None]:
        """Counts what runs inside as `kind` instead of training."""
        before = self._notes.kind
        self.pause()
        self._notes.kind = kind
        try:
            yield
        finally:
            self.pause()
            self._notes.kind = before

    def leave(self) -> None:
        """Makes the next `admit`, or the one that sleeps now, raise LeaveRequested."""
        self._passage.is_leaving = True
        self._passage.deadline_ns = 0

    def pause(self) -> None:
        """Says that the device is given up until the next `admit` (waiting for a message, say)."""
        self._end_run()
        self._write_runs()

    def check(self) -> None:
        """Raises LeaveRequested after `leave`, LaneError if this lane will not open again."""
        if self._passage.is_leaving:
            raise LeaveRequested
        if self._site_words[self._site_word] == Word.GONE:
            raise LaneError("the lane is gone: the job that lent it has ended")
        if not self._stage.has_writer():
            return  # the primary is still starting; the supervisor bounds the wait
        problem = self._stage.writer_problem()
        if problem:
            raise LaneError(f"the lane's stage page cannot be used: {problem}")

    def _wait_or_finish(self, need_ns: int, *, is_whole: bool) -> None:
        try:
            self._wait_for(need_ns, is_whole=is_whole)
        except (LeaveRequested, LaneError) as reason:
            self._write_runs()
            if not self._is_unbroken or isinstance(reason, StarvedError):
                raise
            self._reason = reason

    def _wait_for(self, need_ns: int, *, is_whole: bool) -> None:
        passage = self._passage
        tried_word = 0
        while True:
            if passage.is_leaving:
                raise LeaveRequested
            word = self._words[self._gate]
            sleep_s = SLEEP_S
            if word & 3 == GATE_OPEN and self._passage.is_permitted():
                self._let_primary_block()
                if self._words[self._gate] != word:
                    continue
                if word != passage.word:
                    self._read_window(word)
                enough_ns = min(need_ns, self._longest_window_ns()) if is_whole else need_ns
                now_ns = self._now_ns()
                if now_ns >= passage.late_ns:
                    self._until_ns = passage.late_ns = now_ns + LATE_RUN_NS
                    self.check()
                if now_ns + enough_ns <= self._until_ns:
                    self._num_too_short = 0
                    return
                if word != tried_word:
                    tried_word = word
                    self._note_too_short(enough_ns)
                sleep_s = min(SLEEP_S, (passage.late_ns - now_ns) / 1e9)
            asleep_ns = self._now_ns()
            self._waiter.wait_change(word, sleep_s)
            if self._now_ns() - asleep_ns > SLEEP_S * 0.9e9:
                self.check()
                self._beat()

    def _longest_window_ns(self) -> int:
        """Returns most of the longest window seen of late; a whole one would never fit."""
        return int(0.8 * max(self._windows_ns, default=0) - self._margin_ns)

    def _read_window(self, word: int) -> None:
        """Takes the times of this OPEN; a word that changed meanwhile leaves no time to run."""
        passage = self._passage
        opened_ns = self._quads[self._open_at]
        label = GateWord.unpack(word).label
        window_ns = self._words[self._until_us + label] * 1000
        late_ns = self._words[self._late_us + label] * 1000
        if self._words[self._gate] != word or opened_ns > self._now_ns():  # torn, or nonsense
            self._until_ns, passage.late_ns = 0, NEVER_NS
            return
        passage.word = word
        self._windows_ns.append(window_ns)
        self._until_ns = opened_ns + window_ns - int(self._margin_ns)
        passage.careful_ns = opened_ns + int(window_ns * CAREFUL_FROM)
        passage.late_ns = opened_ns + late_ns if late_ns else NEVER_NS

    def _note_too_short(self, need_ns: int) -> None:
        window_ns = self._windows_ns[-1] if self._windows_ns else 0
        if need_ns <= window_ns - self._margin_ns or not window_ns:  # it has a late start only
            return
        self._num_too_short += 1
        if self._num_too_short >= WINDOWS_UNTIL_STARVED:
            raise StarvedError(
                f"one unit of work takes {need_ns / 1e6:.1f} ms and the last "
                f"{WINDOWS_UNTIL_STARVED} bubbles were shorter; make model or bundle smaller"
            )

    def _end_run(self) -> None:
        """Notes that the run has ended; the rest waits, since the primary may want its device. The
        margin widens if the last unit took far more than it had asked for.
        """
        passage = self._passage
        if self._notes.is_running:
            if not passage.has_ended:
                passage.note_end()
            self._notes.end(passage)
            if not passage.was_closed and passage.ended_ns - self._until_ns > EXCESS_NS:
                self._margin_ns = min(2 * self._margin_ns + 1, MARGIN_MAX_NS)
            self._margin_ns = max(self._margin_ns * MARGIN_SHRINK, self._least_margin_ns)
        passage.has_ended = False
        passage.deadline_ns = 0

    def _write_runs(self) -> None:
        self._notes.write(margin_ns=int(self._margin_ns))

    def _beat(self) -> None:
        if self._trial is not None:
            self._trial.set("heartbeat_ns", self._now_ns())
