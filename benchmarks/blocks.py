"""Blocks of a few steps of a primary, alternating between variants, and what they show.

Over minutes a machine drifts by more than the effects that are measured here, so every variant
runs a few steps at a time, in one run. Within a block of a primary that lends, the guard's
schedule shuts every second pair of steps, so that open and shut steps alternate every two steps.
The first steps of a block, in which the processes were stopped and wake up, do not count in any
figure; where windows are predicted, those that remember the stop.
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
from hydro_hpc.primary.guard import BLOCK_STEPS, GuardSettings, estimate, is_shut
from hydro_hpc.primary.windows import NUM_REMEMBERED
from hydro_hpc.report.recording import LaneRecording

SETTLE_STEPS: Final = 2
GATED_SETTLE_STEPS: Final = NUM_REMEMBERED  # until no prediction remembers the stop
ALWAYS_DENSE: Final = GuardSettings(dense_steps=10**9)


@dataclass(slots=True)
class Seen:
    """What all blocks of one variant showed."""

    pairs: list[float] = field(default_factory=list)  # open / shut - 1
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
    seen.pairs += pair_ratios(lines)
    seen.lines.append(lines)
    seen.open_means_s.append(
        statistics.fmean(line.step_s for line in lines if not is_shut(line.step, ALWAYS_DENSE))
    )


def run_plain(primary: Primary, steps: int) -> float:
    """Runs a block of a primary without us; returns its mean step."""
    lines = primary.run_block(steps, settle=SETTLE_STEPS)
    return statistics.fmean(line.step_s for line in lines)


def pair_ratios(lines: list[Line]) -> list[float]:
    """Returns open / shut - 1 for each two open steps that two shut steps follow."""
    times = {line.step: line.step_s for line in lines}
    ratios = []
    for first in times:
        block = range(first, first + 2 * BLOCK_STEPS)
        if first % BLOCK_STEPS or not all(step in times for step in block):
            continue
        shut = [is_shut(step, ALWAYS_DENSE) for step in block]
        if shut == [False] * BLOCK_STEPS + [True] * BLOCK_STEPS:
            open_s, shut_s = (
                statistics.fmean(times[step] for step in half)
                for half in (block[:BLOCK_STEPS], block[BLOCK_STEPS:])
            )
            ratios.append(open_s / shut_s - 1)
    return ratios


def within(recording: LaneRecording, spans_ns: list[tuple[int, int]]) -> LaneRecording:
    """Returns what a lane's recorder saw in these blocks' whole steps, settling ones left out."""
    steps = []
    for start_ns, end_ns in spans_ns:
        inside = [s for s in recording.steps if start_ns <= s.start_ns and s.end_ns <= end_ns]
        steps += inside[GATED_SETTLE_STEPS:]
    kept = {step.number for step in steps}
    waits = [wait for wait in recording.waits if wait.step in kept]
    return replace(recording, steps=tuple(steps), waits=tuple(waits))


def as_figure(ratios: list[float]) -> Figure:
    """Returns the trimmed mean of ratios with its 95% interval (Yuen)."""
    found = estimate(ratios)
    return Figure(
        median=found.slowdown, low=found.low, high=found.high, n=found.num_pairs, unit="1"
    )
