"""Lets a command's processes run in the windows of a lane: looks, asks `residency`, acts, writes.

It sleeps on the gate word. In a window it looks every 0.2 ms, since the primary wakes nobody when
it closes. Measured with two loops on a busy host of two cores, 150 windows of 15 ms that were
predicted as 40: left after 0.4 ms at the median, 0.2 ms of it device time; 2.8 ms of CPU time of
its own per window. It is in the ordinary class only inside windows: a batch task that the primary
wakes does not push it off.

Not covered: GPU time. On a GPU, kernels that are queued already run on after a pause.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from hydro_hpc.config import Settings
from hydro_hpc.page import Page
from hydro_hpc.page_layout import RecordKind
from hydro_hpc.trial.events import (
    Action,
    AskToEnd,
    DeviceUsed,
    End,
    Event,
    GateSeen,
    LeaveOrdered,
    Pause,
    Run,
)
from hydro_hpc.trial.lane import TenantLane, no_wait
from hydro_hpc.trial.process_tree import Tree
from hydro_hpc.trial.residency import Residency, advance
from hydro_hpc.trial.runs import EndedRun, RunWriter
from hydro_hpc.wait import Waiter

POLL_S: Final = 200e-6  # in a window
SLEEP_S: Final = 1.0  # outside
LEAVE_LOOK_S: Final = 0.02
LEAVE_NS: Final = 10_000_000_000  # from SIGTERM to SIGKILL
KILL_S: Final = 5.0
LEAST_RUN_NS: Final = 500_000  # a shorter rest of a window is not worth two rounds of signals


class Core(NamedTuple):
    """How this process behaves on the core that it may share with the primary."""

    let_primary_block: Callable[[], None] = no_wait  # after an opening
    stand_ready: Callable[[], None] = no_wait  # in a window, to end it in time
    stand_back: Callable[[], None] = no_wait


ON_GPU: Final = Core()


class Pauser:
    """Lets a tree of processes run in the windows of a lane; it is paused when this begins."""

    def __init__(
        self,
        *,
        lane: TenantLane,
        tree: Tree,
        waiter: Waiter,
        page: Page,
        settings: Settings,
        core: Core = ON_GPU,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lane = lane
        self._tree = tree
        self._waiter = waiter
        self._page = page
        self._writer = RunWriter(page)
        self._margin_ns = int(settings.margin_us * 1000)
        self._core = core
        self._now_ns = now_ns
        self._state = Residency(
            grace_ns=int(settings.grace_ms * 1e6),
            leave_ns=LEAVE_NS,
            pauses_itself=False,
            is_paused=True,
        )
        self._pausing_ns = 0  # what a pause takes, of late
        self._deadline_ns = 0
        self._deadline_word = 0  # the OPEN that it belongs to
        self._is_leaving = False
        self._used_ns = 0
        self._run: EndedRun | None = None  # the open one, or one that is not written yet
        self.ended_because: str | None = None

    def run(self) -> int:
        """Returns the command's exit code (negative: a signal) once nothing of it is left."""
        while self._tree.exit_code() is None and self.ended_because is None:
            self._waiter.wait_change(*self.turn())
        if not self._state.is_paused:
            self._end_run()
        self._write_run()
        self._tree.kill(give_up_s=KILL_S)
        code = self._tree.exit_code()
        return -signal.SIGKILL if code is None else code

    def leave(self) -> None:
        """Ends the command at the next turn; may be called from a signal handler."""
        self._is_leaving = True

    def turn(self) -> tuple[int, float]:
        """Looks, and does what follows; returns the gate word and how long to sleep on it."""
        if self._runs_on():
            return self._deadline_word, self._sleep_s()
        if self._state.is_paused or self._state.leave_by_ns is not None:
            self._measure()
            self._write_run()
        if self._is_leaving:
            self._is_leaving = False
            self._happened(LeaveOrdered(at_ns=self._now_ns()))
        seen = self._look()
        if seen.permits and self._state.is_paused:
            self._core.let_primary_block()
            seen = self._look()
        self._happened(seen)
        return seen.word, self._sleep_s()

    def _runs_on(self) -> bool:
        """Says, cheaply, whether nothing has changed since the command was let run."""
        if self._state.is_paused or self._is_leaving or self._state.leave_by_ns is not None:
            return False
        now_ns = self._now_ns()
        seen = self._lane.look(now_ns)
        return seen.permits and seen.word == self._deadline_word and now_ns < self._deadline_ns

    def _look(self) -> GateSeen:
        """A window counts as shut from its deadline on."""
        seen = self._lane.look(self._now_ns())
        if not seen.is_open:
            return seen
        end_ns = self._lane.window_end_ns(seen.word)
        self._deadline_word = seen.word
        self._deadline_ns = end_ns - self._margin_ns - self._pausing_ns
        least_ns = LEAST_RUN_NS if self._state.is_paused else 0
        return replace(seen, is_open=seen.at_ns + least_ns < self._deadline_ns)

    def _sleep_s(self) -> float:
        if self._state.leave_by_ns is not None:
            return LEAVE_LOOK_S
        if self._state.is_paused:
            return SLEEP_S
        return max(0.0, min(POLL_S, (self._deadline_ns - self._now_ns()) / 1e9))

    def _measure(self) -> None:
        self._used_ns = self._tree.used_ns()
        self._happened(DeviceUsed(at_ns=self._now_ns(), used_ns=self._used_ns))

    def _happened(self, event: Event) -> None:
        self._state, actions = advance(self._state, event)
        for action in actions:
            self._act(action, event)

    def _act(self, action: Action, event: Event) -> None:
        if isinstance(action, Run) and isinstance(event, GateSeen):
            self._begin_run(event)
            self._core.stand_ready()
            self._tree.resume()
        elif isinstance(action, Pause):
            started_ns = self._now_ns()
            self._tree.pause()
            self._pausing_ns = max(self._now_ns() - started_ns, self._pausing_ns * 9 // 10)
            self._core.stand_back()
            self._end_run()
        elif isinstance(action, AskToEnd):
            self._end_run()
            self._tree.ask_to_end()
        elif isinstance(action, End):
            self.ended_because = action.reason

    def _begin_run(self, seen: GateSeen) -> None:
        self._page.set("ack_word", seen.word)
        self._run = EndedRun(
            kind=RecordKind.RUN,
            word=seen.word,
            step=self._lane.stage.get("step"),
            start_ns=seen.at_ns,
            end_ns=0,
            device_ns=-self._used_ns,
            late_ns=0,
            num_samples=0,
        )

    def _end_run(self) -> None:
        """Notes the end. It is written at the next look: the primary may want its core now."""
        run = self._run
        if run is None or run.end_ns:
            return
        end_ns = self._now_ns()
        stage = self._lane.stage
        close_ns = stage.get("close_ns")
        is_late = stage.get("gate_word") != run.word and run.start_ns <= close_ns < end_ns
        self._used_ns = self._tree.used_ns()
        self._run = replace(
            run,
            end_ns=end_ns,
            device_ns=self._used_ns + run.device_ns,
            late_ns=end_ns - close_ns if is_late else 0,
        )

    def _write_run(self) -> None:
        if self._run is not None and self._run.end_ns:
            self._writer.write(self._run, margin_ns=self._margin_ns + self._pausing_ns)
            self._run = None
        self._page.set("heartbeat_ns", self._now_ns())
