"""Blocks of a few steps of a primary, alternating between variants, and what they show.

Over minutes a machine drifts by more than the effects that are measured here, so every variant
runs a few steps at a time, in one run. Within a block of a primary that lends, the guard's
schedule shuts half of the steps, one at a time. The speed of this machine drifts within a second
(step times next to each other correlate by 0.6), so the same number of steps, alternating every two
steps, showed half as much. The first steps of a block, in which the processes were stopped and wake
up, do not count in any figure; where windows are predicted, those that remember the stop.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.result_file import Figure
from benchmarks.running import Line, Primary
from benchmarks.sched_trace import Event, SchedTrace
from hydro_hpc.primary.guard import GuardSettings, estimate, is_shut, log_open_over_shut
from hydro_hpc.primary.windows import NUM_REMEMBERED
from hydro_hpc.report.recording import LaneRecording

SETTLE_STEPS: Final = 2
GATED_SETTLE_STEPS: Final = NUM_REMEMBERED  # until no prediction remembers the stop
ALWAYS_DENSE: Final = GuardSettings(dense_steps=10**9)


@dataclass(slots=True)
class Seen:
    """What all blocks of one variant showed."""

    logs: list[float] = field(default_factory=list)  # log(open / shut), one per shut step
    open_means_s: list[float] = field(default_factory=list)  # one per block
    spans_ns: list[tuple[int, int]] = field(default_factory=list)  # of the blocks
    lines: list[list[Line]] = field(default_factory=list)  # per block


def run_gated(
    primary: Primary,
    seen: Seen,
    *,
    steps: int,
    trace: SchedTrace | None = None,
    take: Callable[[list[Event]], None] = lambda _: None,
) -> None:
    """Runs a block of a primary that lends; `take` gets its scheduling events."""
    started_ns = time.monotonic_ns()
    lines = primary.run_block(
        steps, settle=GATED_SETTLE_STEPS, settled=(lambda: None) if trace is None else trace.start
    )
    if trace is not None:
        take(trace.stop())
    seen.spans_ns.append((started_ns, time.monotonic_ns()))
    seen.logs += open_over_shut(lines)
    seen.lines.append(lines)
    seen.open_means_s.append(
        statistics.fmean(line.step_s for line in lines if not is_shut(line.step, ALWAYS_DENSE))
    )


def run_plain(primary: Primary, steps: int) -> float:
    """Runs a block of a primary without us; returns its mean step."""
    lines = primary.run_block(steps, settle=SETTLE_STEPS)
    return statistics.fmean(line.step_s for line in lines)


def open_over_shut(lines: list[Line]) -> list[float]:
    """Returns log(open / shut) for each shut step between two open ones, `open` being their
    geometric mean: what drifts evenly cancels, and the mean of logs, unlike that of quotients, is
    not moved by noise. (Neighbours share an open step; on a machine with even noise the interval of
    `as_figure` would be 8% too narrow; here it is 25% too wide.)
    """
    times = {line.step: line.step_s for line in lines}
    open_s = {step: time_s for step, time_s in times.items() if not is_shut(step, ALWAYS_DENSE)}
    return [
        log_open_over_shut(open_s[step - 1], shut_s, open_s[step + 1])
        for step, shut_s in times.items()
        if step not in open_s and step - 1 in open_s and step + 1 in open_s
    ]


def within(recording: LaneRecording, spans_ns: list[tuple[int, int]]) -> LaneRecording:
    """Returns what a lane's recorder saw in these blocks' whole steps, settling ones left out."""
    steps = []
    for start_ns, end_ns in spans_ns:
        inside = [s for s in recording.steps if start_ns <= s.start_ns and s.end_ns <= end_ns]
        steps += inside[GATED_SETTLE_STEPS:]
    kept = {step.number for step in steps}
    waits = [wait for wait in recording.waits if wait.step in kept]
    return replace(recording, steps=tuple(steps), waits=tuple(waits))


def as_figure(logs: list[float]) -> Figure:
    """Returns the trimmed mean of log ratios as a slowdown, with its 95% interval (Yuen)."""
    found = estimate(logs)
    return Figure(
        median=found.slowdown, low=found.low, high=found.high, n=found.num_pairs, unit="1"
    )
