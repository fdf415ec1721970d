"""Pictures of what prediction and guard did in a run of `benchmarks/changes.py`."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydro_hpc.primary.guard import log_open_over_shut
from hydro_hpc.report.recording import LaneRecording, Step, Wait

SIZE_INCHES: Final = (11.0, 5.0)
DPI: Final = 110
INK: Final = "#333333"
OPEN: Final = "#2e9e5b"
SHUT: Final = "#9a9a9a"
LINE: Final = "#3b5b92"
HELD: Final = "#f6dfb8"
SHOWN_NS: Final = 2_000_000  # waits that are drawn
AROUND: Final = 45  # steps before the first change and after the last
BEFORE: Final = 120  # steps before the first slowed one
NUM_PAIRS: Final = 9  # of the running median of slowdowns


@dataclass(frozen=True, slots=True)
class GuardSeen:
    """What a stage page said of its guard at one moment. Slowdowns: 0.01 = 1%."""

    step: int
    is_holding: bool
    trips: int
    slowdown: float
    low: float
    high: float


def draw_prediction(lane: LaneRecording, changes: Mapping[int, str], path: Path) -> None:
    """Draws a stage's longest waits of each step, and the deadlines that they were opened with."""
    figure, axes = _figure(1)
    first, last = min(changes) - AROUND, max(changes) + AROUND
    shut = {step.number for step in lane.steps if step.is_shut}
    waits = [w for w in lane.waits if first <= w.step <= last and _length_ms(w) * 1e6 >= SHOWN_NS]
    opened = [wait for wait in waits if wait.opened_ns]
    unopened = [wait for wait in waits if not wait.opened_ns and wait.step not in shut]
    dots: list[tuple[list[Wait], str, str, str]] = [
        (
            [wait for wait in waits if wait.step in shut],
            SHUT,
            ".",
            "wait of a shut step",
        ),
        (unopened, "#c0392b", "x", "wait that was not opened"),
        (opened, OPEN, "o", "wait that was opened"),
    ]
    for some, color, mark, label in dots:
        steps, lengths_ms = [wait.step for wait in some], [_length_ms(wait) for wait in some]
        axes.scatter(steps, lengths_ms, s=18, c=color, marker=mark, label=label)
    planned = [wait for wait in opened if wait.predicted_ns]
    axes.hlines(
        [wait.predicted_ns / 1e6 for wait in planned],
        [wait.step - 0.5 for wait in planned],
        [wait.step + 0.5 for wait in planned],
        color=LINE,
        linewidth=1.6,
        label="its deadline, known before",
    )
    for step, what in changes.items():
        _mark(axes, step, what)
    axes.set_xlabel("step")
    axes.set_ylabel("wait of stage 1, ms")
    axes.set_ylim(bottom=0)
    _legend(axes)
    _save(figure, path)


def draw_guard(lane: LaneRecording, guard: Sequence[GuardSeen], slow_from: int, path: Path) -> None:
    """Draws step times, what they say of the slowdown, and when bubbles were held."""
    figure, axes = _figure(2)
    above, below = axes
    shown = [step for step in lane.steps if step.number >= slow_from - BEFORE]
    guard = [seen for seen in guard if seen.step >= slow_from - BEFORE]
    for is_shut, color, label in ((False, OPEN, "open step"), (True, SHUT, "shut step")):
        steps = [step for step in shown if step.is_shut is is_shut]
        above.plot(
            [step.number for step in steps],
            [(step.end_ns - step.start_ns) / 1e6 for step in steps],
            ".",
            color=color,
            markersize=4,
            label=label,
        )
    above.set_ylabel("step, ms")
    lengths_ms = [(step.end_ns - step.start_ns) / 1e6 for step in shown]
    above.set_ylim(0.9 * min(lengths_ms), 1.1 * statistics.quantiles(lengths_ms, n=50)[-1])
    below.plot(*_running(shown), color=LINE, label=f"median of the last {NUM_PAIRS} pairs")
    below.axhline(0.0, color=INK, linewidth=0.8)
    below.axhline(1.0, color="#c0392b", linewidth=1.0, linestyle="--", label="bound")
    below.set_ylabel("slowdown, %")
    below.set_xlabel("step")
    for axis in axes:
        for start, end in _held(guard):
            axis.axvspan(start, end, color=HELD, zorder=0)
        _mark(axis, slow_from, "10% slower whenever lent" if axis is above else "")
    above.bar(slow_from, 0, color=HELD, label="bubbles held by the guard")
    _legend(above)
    _legend(below)
    _save(figure, path)


def _running(steps: Sequence[Step]) -> tuple[list[int], list[float]]:
    """Returns (steps, running median of open / shut - 1 in percent) over the shut steps that stand
    between two open ones.
    """
    numbers, logs, medians = [], list[float](), []
    for before, shut, after in zip(steps, steps[1:], steps[2:], strict=False):
        if before.is_shut or not shut.is_shut or after.is_shut:
            continue
        lengths_ns = [step.end_ns - step.start_ns for step in (before, shut, after)]
        logs.append(log_open_over_shut(*lengths_ns))
        numbers.append(after.number)
        medians.append(100 * math.expm1(statistics.median(logs[-NUM_PAIRS:])))
    return numbers, medians


def _held(guard: Sequence[GuardSeen]) -> list[tuple[int, int]]:
    """Returns the spans of steps in which bubbles were held."""
    spans = []
    for is_holding, seen in itertools.groupby(guard, key=lambda one: one.is_holding):
        steps = [one.step for one in seen]
        if is_holding:
            spans.append((steps[0], steps[-1]))
    return spans


def _length_ms(wait: Wait) -> float:
    return (wait.end_ns - wait.start_ns) / 1e6


def _figure(rows: int) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, 1, figsize=SIZE_INCHES, dpi=DPI, sharex=True)


def _mark(axes: Any, step: int, text: str) -> None:
    axes.axvline(step - 0.5, color=INK, linewidth=1.0, linestyle=":")
    axes.text(
        step, 0.98, text, transform=axes.get_xaxis_transform(), fontsize=8, color=INK, va="top"
    )


def _legend(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=8, frameon=False, ncols=4)


def _save(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
