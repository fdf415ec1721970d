"""What happened in each window, from the kernel's scheduling events and the flight recorders. Pure.

All times are CLOCK_MONOTONIC microseconds of the host. "Primary" is the training thread of one
rank, "workers" are the threads of the trial on its core.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from benchmarks.sched_trace import Event, Switch, Waking
from hydro_hpc.report.intervals import Intervals, intersection, length_ns, union
from hydro_hpc.report.recording import Run, Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSeen:
    """One opened window of a rank."""

    resume_us: float | None  # from when the primary blocked until the trial's first instruction
    overrun_us: float  # CPU time of the workers from the wake-up of the primary to the next opening
    delay_us: float  # of the primary, from its wake-up to its first instruction


def windows_seen(
    events: Sequence[Event],
    *,
    primary: int,
    workers: set[int],
    waits: Iterable[Wait],
    runs: Iterable[Run],
) -> list[WindowSeen]:
    """Returns what the events of one block show of its windows, all but the last: after it the
    processes are stopped.
    """
    if not events:
        return []
    blocks = [e.at_us for e in events if _is_switch(e) and e.prev == primary and e.is_blocked]
    starts = [e.at_us for e in events if _is_switch(e) and e.next == primary]
    wakes = [e.at_us for e in events if isinstance(e, Waking) and e.tid == primary]
    used = cpu_intervals(events, workers)
    run_starts = sorted(run.start_ns / 1e3 for run in runs)
    first_us, last_us = events[0].at_us, events[-1].at_us
    opened = [
        wait
        for wait in sorted(waits, key=lambda wait: wait.start_ns)
        if wait.opened_ns and first_us < wait.opened_ns / 1e3 and wait.end_ns / 1e3 < last_us
    ]
    found = []
    for wait, following in itertools.pairwise(opened):
        end_us = wait.end_ns / 1e3
        block_us = _first_after(blocks, wait.opened_ns / 1e3)
        wake_us = _last_before(wakes, end_us)
        if block_us is None or wake_us is None or not block_us < wake_us:
            continue
        start_us = _first_after(starts, wake_us)
        run_us = _first_after(run_starts, wait.opened_ns / 1e3)
        after: Intervals = [(int(wake_us * 1e3), following.opened_ns)]
        has_run = run_us is not None and run_us < end_us
        found.append(
            WindowSeen(
                resume_us=max(0.0, run_us - block_us) if has_run and run_us else None,
                overrun_us=length_ns(intersection(used, after)) / 1e3,
                delay_us=0.0 if start_us is None else start_us - wake_us,
            )
        )
    return found


def cpu_intervals(events: Iterable[Event], threads: set[int]) -> Intervals:
    """Returns when one of the threads had the core, in nanoseconds."""
    since: dict[int, float] = {}
    found = []
    for event in events:
        if isinstance(event, Switch):
            start_us = since.pop(event.prev, None)
            if start_us is not None:
                found.append((int(start_us * 1e3), int(event.at_us * 1e3)))
            if event.next in threads:
                since[event.next] = event.at_us
    return union(found)


def used_share(events: Sequence[Event], *, workers: set[int], bubbles: Intervals) -> float:
    """Returns the workers' CPU time inside bubbles / bubble time, in what the events cover."""
    if not events:
        return 0.0
    seen: Intervals = [(int(events[0].at_us * 1e3), int(events[-1].at_us * 1e3))]
    covered = intersection(bubbles, seen)
    total = length_ns(covered)
    return length_ns(intersection(cpu_intervals(events, workers), covered)) / total if total else 0


def _is_switch(event: Event) -> TypeGuard[Switch]:
    return isinstance(event, Switch)


def _first_after(times_us: list[float], at_us: float) -> float | None:
    position = bisect.bisect_left(times_us, at_us)
    return times_us[position] if position < len(times_us) else None


def _last_before(times_us: list[float], at_us: float) -> float | None:
    position = bisect.bisect_right(times_us, at_us)
    return times_us[position - 1] if position else None
