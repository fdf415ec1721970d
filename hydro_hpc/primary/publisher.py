"""Writes this rank's stage page: opens the gate when a wait begins, closes it when the wait ends.

For backends whose communication calls block the host (gloo): there the call itself is the bubble.
The primary only stores words and wakes sleepers; it never reads what a trial wrote and never
waits for one. Everything here runs on the training thread, between its own instructions, so each
line costs the primary.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from hydro_hpc.devices.memory import DeviceMemory
from hydro_hpc.page import Page
from hydro_hpc.page_layout import (
    EPOCH_MASK,
    GATE_CLOSED,
    GATE_OPEN,
    NUM_LABELS,
    PrimaryState,
    Record,
    RecordKind,
    Word,
)
from hydro_hpc.primary.guard import DECIDE_EVERY_STEPS, Guard, is_shut
from hydro_hpc.primary.windows import EARLY_END_NS, WORTH_OPENING_NS, Window, Windows

MERGE_GAP_NS: Final = 200_000  # waits nearer to each other than this are one bubble
RECORDED_NS: Final = 200_000  # shorter waits are counted, not recorded
STEPS_UNTIL_NOT_PIPELINED: Final = 30  # in a row, without a bubble worth opening
LIMIT_EVERY_STEPS: Final = 100  # its files cost 50 us each to read
NO_BUBBLES: Final = "this job never waits 2 ms for another rank in a step"


class Publisher:
    """Turns waits and steps of one rank into gate words, counters and flight-recorder records."""

    def __init__(
        self,
        page: Page,
        *,
        guard: Guard,
        wake_all: Callable[[], None],
        read_tenant: Callable[[], int],
        memory: DeviceMemory,
        num_lanes: int = 1,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`num_lanes`: between so many devices of this node the job's memory is divided."""
        self._page = page
        self._memory = memory
        self._num_lanes = num_lanes
        self._wake_all = wake_all
        self._now_ns = now_ns
        self._guard = guard
        self._read_tenant = read_tenant
        self._tenant_job = 0
        self._windows = Windows()
        self._words = page.words
        self._quads = page.quads
        self._gate = page.word_index("gate_word")
        self._open_at = page.quad_index("open_ns")
        self._close_at = page.quad_index("close_ns")
        self._open_until_now = page.quad_index("open_until_now_ns")
        self._until_us = page.word_index("window_us")
        self._late_us = page.word_index("late_us")
        self._epoch = 0
        self._wait_started_ns = 0
        self._window = Window()  # of the call that this thread is in
        self._is_waiting = False
        self._opened_ns = 0  # 0: this wait did not open the gate
        self._opened_until_ns = 0
        self._bubble: Record | None = None  # the last wait, while a near one may still follow
        self._step = 0
        self._step_started_ns = 0
        self._num_steps = 0
        self._steps_without = 0  # in a row
        self._may_open = False
        self._is_shut = False
        self.microbatch = -1  # set by an engine's labels
        self._words[self._gate] = GATE_CLOSED
        if page.get("owner_word") != Word.HOLD:  # it outlives a step: `hydro pause`
            page.set("owner_word", Word.RUN)
        page.set("guard_word", Word.RUN)
        page.set("guard_bound_ppm", int(guard.settings.bound * 1e6))
        self._publish_memory_limit()
        page.set("memory_peak_bytes", memory.peak_bytes())
        page.set("state", PrimaryState.STARTING)

    def begin_wait(self, name: str) -> None:
        """Called right before a communication call."""
        self._window = self._windows.expect(name)
        self._is_waiting = False
        self._wait_started_ns = self._now_ns()

    def open(self) -> None:
        """Called when that call has nothing left to do but wait: there its wait begins, and the
        gate opens if it is worth it.
        """
        if self._is_waiting:
            return
        self._is_waiting = True
        self._wait_started_ns = now_ns = self._now_ns()
        if not self._may_open:
            return
        windows = self._windows
        until_ns, late_ns = self._window.since(now_ns - windows.ended_ns)
        if not (until_ns or late_ns):
            return
        label = windows.position % NUM_LABELS
        self._epoch = (self._epoch + 1) & EPOCH_MASK
        words = self._words
        words[self._until_us + label] = until_ns // 1000
        words[self._late_us + label] = late_ns // 1000
        self._quads[self._open_at] = now_ns
        words[self._gate] = self._epoch << 8 | label << 2 | GATE_OPEN
        self._wake_all()
        self._opened_ns = now_ns
        self._opened_until_ns = until_ns

    def end_wait(self, name: str) -> None:
        """Called right after it: closes the gate first, then keeps the books."""
        opened_ns = self._opened_ns
        if opened_ns:
            self._words[self._gate] = self._epoch << 8 | GATE_CLOSED
            self._opened_ns = 0
        now_ns = self._now_ns()
        if opened_ns:
            self._quads[self._close_at] = now_ns
            self._quads[self._open_until_now] += now_ns - opened_ns
        started_ns = self._wait_started_ns
        windows = self._windows
        label = windows.position
        predicted_ns = self._opened_until_ns if opened_ns else 0
        windows.observe(name, started_ns=started_ns, ended_ns=now_ns)
        before = self._bubble
        if before is not None and started_ns - before.end_ns < MERGE_GAP_NS:
            self._bubble = before._replace(
                end_ns=now_ns,
                value=max(before.value, predicted_ns),
                extra=before.extra or opened_ns,
            )
            return
        if before is not None:
            self._flush_bubble(before)
        self._bubble = Record(
            kind=RecordKind.WAIT,
            start_ns=started_ns,
            end_ns=now_ns,
            label=label,
            step=self._step,
            microbatch=self.microbatch,
            value=predicted_ns,
            extra=opened_ns,
        )

    def begin_step(self, step: int) -> None:
        """Ends the step before, if any, and begins `step` (counted from 0, equal on all ranks)."""
        now_ns = self._now_ns()
        if self._step_started_ns:
            self._end_step(now_ns, step)
        self._step = step
        self._step_started_ns = now_ns
        self._is_shut = is_shut(step, self._guard.settings)
        self._may_open = not self._is_shut and not self._guard.is_holding
        self._quads[self._page.quad_index("heartbeat_ns")] = now_ns
        self._page.set("step", step)

    def set_stage(self, stage: int, num_stages: int) -> None:
        """Takes the stage from an engine that knows it; until then it is the rank."""
        self._page.set("stage", stage)
        self._page.set("num_stages", num_stages)

    def close(self) -> None:
        """Closes the gate for good."""
        self._may_open = False
        self._words[self._gate] = GATE_CLOSED
        self._page.set("state", PrimaryState.ENDED)
        if self._bubble is not None:
            self._flush_bubble(self._bubble)
            self._bubble = None

    def _end_step(self, now_ns: int, next_step: int) -> None:
        page = self._page
        guard = self._guard
        step_ns = now_ns - self._step_started_ns
        self._num_steps += 1
        page.append(
            Record(
                kind=RecordKind.STEP,
                start_ns=self._step_started_ns,
                end_ns=now_ns,
                step=self._step,
                value=int(self._is_shut),
            )
        )
        self._windows.early_end_ns = EARLY_END_NS << guard.caution
        self._windows.end_step()
        has_bubbles = self._windows.has_worth_opening()
        is_lent = bool(self._tenant_job) and page.get("owner_word") == Word.RUN
        guard.observe(
            step=self._step,
            step_ns=step_ns,
            was_shut=self._is_shut,
            was_shared=is_lent and has_bubbles,
        )
        is_holding = guard.decide(next_step)
        if next_step % DECIDE_EVERY_STEPS == 0:
            self._tenant_job = self._read_tenant()
        page.set("guard_word", Word.HOLD if is_holding else Word.RUN)
        page.set("num_steps", self._num_steps)
        page.set("memory_peak_bytes", self._memory.peak_bytes())  # at once: trials make room
        if self._num_steps % LIMIT_EVERY_STEPS == 0:
            self._publish_memory_limit()
        self._publish_state(has_bubbles=has_bubbles)
        if self._num_steps % 10 == 0:
            self._publish_slow_facts()

    def _publish_state(self, *, has_bubbles: bool) -> None:
        """A few odd steps are no reason to send the trials away."""
        page = self._page
        self._steps_without = 0 if has_bubbles else self._steps_without + 1
        if has_bubbles:
            if page.get("state") != PrimaryState.SHARING:
                page.set_text("reason", "")
            page.set("state", PrimaryState.SHARING)
        elif self._steps_without == STEPS_UNTIL_NOT_PIPELINED:
            page.set_text("reason", NO_BUBBLES)
            page.set("state", PrimaryState.NOT_PIPELINED)
            print(f"hydro: nothing is lent: {NO_BUBBLES}", file=sys.stderr, flush=True)
        elif page.get("state") == PrimaryState.STARTING:
            page.set("state", PrimaryState.LEARNING)

    def _publish_slow_facts(self) -> None:
        """What nobody needs at once: about 0.1 ms, every tenth step."""
        page = self._page
        estimate = self._guard.estimate()
        page.set("guard_pairs", estimate.num_pairs)
        page.set("guard_trips", self._guard.num_trips)
        page.set("guard_caution", self._guard.caution)
        if estimate.num_pairs >= 3:
            page.set("slowdown_ppm", int(estimate.slowdown * 1e6))
            page.set("slowdown_low_ppm", int(estimate.low * 1e6))
            page.set("slowdown_high_ppm", int(estimate.high * 1e6))
            open_ns, shut_ns = self._guard.step_times_ns()
            page.set("step_open_ns", open_ns)
            page.set("step_shut_ns", shut_ns)

    def _publish_memory_limit(self) -> None:
        self._page.set("memory_limit_bytes", self._memory.limit_bytes() // self._num_lanes)

    def _flush_bubble(self, bubble: Record) -> None:
        length_ns = bubble.end_ns - bubble.start_ns
        page = self._page
        quads = self._quads
        quads[page.quad_index("wait_ns")] += length_ns
        if length_ns < RECORDED_NS:
            return
        page.append(bubble)
        if length_ns >= WORTH_OPENING_NS and not self._is_shut:
            quads[page.quad_index("bubble_ns")] += length_ns
        if bubble.extra:
            quads[page.quad_index("open_total_ns")] += bubble.end_ns - bubble.extra
            quads[page.quad_index("num_windows")] += 1
