"""The gate: everything a trial does on the device asks here first, and sleeps here outside bubbles.

A trial may run while the gate word is OPEN and guard, owner and site all say RUN, and only if
what it is about to do ends before its own deadline: `opened + predicted - margin`. CLOSED is a
correction for windows that ended early; the primary never waits for it to be noticed. Unknown,
stale or torn means pause.

One thread (the worker's) uses a gate. `leave` may be called from a signal handler of that thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page
from hydro_hpc.page_layout import GATE_OPEN, RecordKind, Word
from hydro_hpc.page_layout import Gate as GateWord
from hydro_hpc.trial.runs import EndedRun, RunWriter
from hydro_hpc.wait import Waiter

SLEEP_S: Final = 1.0  # between looks at whether the primary still lives
EXCESS_NS: Final = 1_000_000  # beyond what a unit had asked for; widens the margin
MARGIN_MAX_NS: Final = 2_000_000
MARGIN_SHRINK: Final = 0.9  # per run
FIRST_NEED_NS: Final = 2_000_000  # of a piece of work that was never done before
FORGET: Final = 0.9  # of the longest piece, at each shorter one
WINDOWS_REMEMBERED: Final = 50
WINDOWS_UNTIL_STARVED: Final = 400  # all too short for one unit of work


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

    def admit(self, need_ns: int) -> None: ...

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
        now_ns: Callable[[], int] = time.monotonic_ns,
        device_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        """`trial` is the page this process writes, None if another one of the tenant writes it.

        `let_primary_block` is called when a window has opened, before it is used: on a device that
        both sides share by time, the primary still has to begin the wait that it announced.
        """
        self._stage = stage
        self._site = site
        self._waiter = waiter
        self._trial = trial
        self._writer = None if trial is None else RunWriter(trial)
        self._is_written = True  # the last run, which these describe
        self._ended_ns = self._ended_device_ns = self._closed_ns = 0
        self._was_closed = False
        self._let_primary_block = let_primary_block
        self._now_ns = now_ns
        self._device_ns = device_ns
        self._words = stage.words
        self._quads = stage.quads
        self._gate = stage.word_index("gate_word")
        self._guard = stage.word_index("guard_word")
        self._owner = stage.word_index("owner_word")
        self._open_at = stage.quad_index("open_ns")
        self._close_at = stage.quad_index("close_ns")
        self._table = stage.word_index("window_us")
        self._site_words = site.words
        self._site_word = site.word_index("site_word")
        self._least_margin_ns = margin_ns
        self._margin_ns = float(margin_ns)
        self._word = 0  # the OPEN that `_deadline_ns` belongs to
        self._deadline_ns = 0
        self._is_leaving = False
        self._is_unbroken = False
        self._reason: LeaveRequested | LaneError | None = None  # to leave, once that has ended
        self._is_running = False
        self._run_started_ns = 0
        self._run_device_ns = 0
        self._unit_started_ns = 0
        self._unit_device_ns = 0  # device time when the last unit was admitted
        self._unit_need_ns = 0  # and what it asked for; 0: none since the last pause
        self._kind = RecordKind.RUN
        self._num_too_short = 0
        self._windows_ns: deque[int] = deque(maxlen=WINDOWS_REMEMBERED)  # their lengths
        self._needs_ns: dict[str, int] = {}  # of pieces of work, by their name
        self.num_samples = 0  # trained since the run began; the worker adds to it

    def admit(self, need_ns: int) -> None:
        """Returns once `need_ns` of device time fit into the open window; sleeps until then.

        Raises LeaveRequested after `leave`, LaneError when the primary or the lane is gone or
        no window is long enough.
        """
        self._admit(need_ns, is_whole=False)

    def _admit(self, need_ns: int, *, is_whole: bool) -> None:
        """`is_whole`: it cannot be cut, so the longest window of late is enough for it."""
        words = self._words
        if (
            words[self._gate] == self._word
            and words[self._guard] == Word.RUN
            and words[self._owner] == Word.RUN
            and self._site_words[self._site_word] == Word.RUN
            and self._now_ns() + need_ns <= self._deadline_ns
            and not self._is_leaving
        ):
            if not self._is_running:
                self._begin_run()
            self._begin_unit(need_ns)
            return
        self._end_run()
        if self._reason is None:
            self._wait_or_finish(need_ns, is_whole=is_whole)
        self._write_run()
        self._begin_run()
        self._begin_unit(need_ns)

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """What runs inside comes to its end even if the gang has to leave meanwhile: the rest of it
        is admitted at once, and LeaveRequested or LaneError is raised after it.

        StarvedError is raised in the middle: the primary lives, and the rest would fit no window.
        """
        self._is_unbroken = True
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
        before = self._kind
        self._pause()
        self._kind = kind
        try:
            yield
        finally:
            self._pause()
            self._kind = before

    def leave(self) -> None:
        """Makes the next `admit`, or the one that sleeps now, raise LeaveRequested."""
        self._is_leaving = True

    def pause(self) -> None:
        """Says that the device is given up until the next `admit` (waiting for a message, say)."""
        self._pause()

    def check(self) -> None:
        """Raises LeaveRequested after `leave`, LaneError if this lane will not open again."""
        if self._is_leaving:
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
            self._write_run()
            if not self._is_unbroken or isinstance(reason, StarvedError):
                raise
            self._reason = reason

    def _wait_for(self, need_ns: int, *, is_whole: bool) -> None:
        words = self._words
        tried_word = 0
        while True:
            if self._is_leaving:
                raise LeaveRequested
            word = words[self._gate]
            if word & 3 == GATE_OPEN and word != tried_word and self._is_permitted():
                tried_word = word
                if word != self._word:
                    self._let_primary_block()
                    self._write_run()
                    self._read_deadline(word)
                enough_ns = min(need_ns, self._longest_window_ns()) if is_whole else need_ns
                if self._now_ns() + enough_ns <= self._deadline_ns:
                    self._num_too_short = 0
                    return
                self._note_too_short(enough_ns)
            asleep_ns = self._now_ns()
            self._waiter.wait_change(word, SLEEP_S)
            if self._now_ns() - asleep_ns > SLEEP_S * 0.9e9:
                self.check()
                self._beat()

    def _longest_window_ns(self) -> int:
        """Returns most of the longest window seen of late; a whole one would never fit."""
        return int(0.8 * max(self._windows_ns, default=0) - self._margin_ns)

    def _is_permitted(self) -> bool:
        return (
            self._words[self._guard] == Word.RUN
            and self._words[self._owner] == Word.RUN
            and self._site_words[self._site_word] == Word.RUN
        )

    def _read_deadline(self, word: int) -> None:
        """Takes the deadline of this OPEN; a word that changed meanwhile leaves no time to run."""
        opened_ns = self._quads[self._open_at]
        window_ns = self._words[self._table + GateWord.unpack(word).label] * 1000
        if self._words[self._gate] != word:
            self._deadline_ns = 0
            return
        self._word = word
        self._windows_ns.append(window_ns)
        self._deadline_ns = opened_ns + window_ns - int(self._margin_ns)

    def _note_too_short(self, need_ns: int) -> None:
        window_ns = self._windows_ns[-1] if self._windows_ns else 0
        if need_ns <= window_ns - self._margin_ns:
            return
        self._num_too_short += 1
        if self._num_too_short >= WINDOWS_UNTIL_STARVED:
            raise StarvedError(
                f"one unit of work takes {need_ns / 1e6:.1f} ms and the last "
                f"{WINDOWS_UNTIL_STARVED} bubbles were shorter; make model or bundle smaller"
            )

    def _begin_run(self) -> None:
        self._is_running = True
        self._run_started_ns = self._now_ns()
        self._run_device_ns = self._device_ns()
        if self._trial is not None:
            self._trial.words[self._trial.word_index("ack_word")] = self._word

    def _begin_unit(self, need_ns: int) -> None:
        """Notes what was admitted, and how far the one before went beyond what it had asked for."""
        device_ns = self._device_ns()
        self._follow_excess(device_ns)
        self._unit_started_ns = self._now_ns()
        self._unit_device_ns = device_ns
        self._unit_need_ns = need_ns

    def _follow_excess(self, device_ns: int) -> None:
        """Widens the margin if the unit that ends here took far more than it had asked for."""
        excess_ns = device_ns - self._unit_device_ns - self._unit_need_ns
        if self._unit_need_ns and excess_ns > EXCESS_NS:
            self._margin_ns = min(2 * self._margin_ns + 1, MARGIN_MAX_NS)

    def _pause(self) -> None:
        self._end_run()
        self._write_run()

    def _end_run(self) -> None:
        """Notes when the run ended; the rest waits for `_write_run`, since the primary may want its
        device at this moment.
        """
        if self._is_running:
            self._is_running = False
            self._is_written = False
            self._ended_ns = self._now_ns()
            self._ended_device_ns = self._device_ns()
            self._was_closed = self._words[self._gate] != self._word
            self._closed_ns = self._quads[self._close_at]

    def _write_run(self) -> None:
        """Writes the run that has ended, if it is not written yet."""
        if self._is_written:
            return
        self._is_written = True
        self._follow_excess(self._ended_device_ns)
        self._unit_need_ns = 0
        self._margin_ns = max(self._margin_ns * MARGIN_SHRINK, self._least_margin_ns)
        if self._writer is not None:
            closed_after_start = self._was_closed and self._closed_ns >= self._run_started_ns
            run = EndedRun(
                kind=self._kind,
                word=self._word,
                step=self._stage.get("step"),
                start_ns=self._run_started_ns,
                last_unit_ns=self._unit_started_ns,
                end_ns=self._ended_ns,
                device_ns=self._ended_device_ns - self._run_device_ns,
                last_device_ns=self._ended_device_ns - self._unit_device_ns,
                late_ns=max(0, self._ended_ns - self._closed_ns) if closed_after_start else 0,
                num_samples=self.num_samples,
            )
            self._writer.write(run, margin_ns=int(self._margin_ns))
        self.num_samples = 0

    def _beat(self) -> None:
        if self._trial is not None:
            self._trial.set("heartbeat_ns", self._now_ns())
