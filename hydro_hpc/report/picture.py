"""A picture of a few steps: what each stage's device did, drawn from the flight recorders.

The stages share one axis of time. A stage's band is its device: the primary's compute, its bubbles,
and the trials inside them; waits too short to be bubbles are left white. A run that the end of a
bubble surprised goes on as a line until the worker has stopped: the training has the device then.
Steps that the guard kept shut are marked.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydro_hpc.errors import ConfigError
from hydro_hpc.report.bubbles import find_bubbles, intervals_of
from hydro_hpc.report.harvest import tenancy
from hydro_hpc.report.intervals import Interval, Intervals, intersection, length_ns, union
from hydro_hpc.report.recording import LaneRecording, Step

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

SIZE_INCHES: Final = (12.0, 5.0)
DPI: Final = 100
NUM_STEPS: Final = 3  # two shared, one shut between them
INK: Final = "#333333"
COMPUTE: Final = "#3b5b92"
BUBBLE: Final = "#f6dfb8"
SHUT: Final = "#dcdcdc"
TRAINING: Final = "#2e9e5b"
OTHER: Final = "#8fd0a8"
LEGEND: Final = (
    (COMPUTE, "training job computes"),
    (BUBBLE, "its bubble, lent"),
    (TRAINING, "trials train"),
    (OTHER, "trials evaluated or stored"),
    (SHUT, "bubble not lent"),
)
BAND: Final = (0.10, 0.76)  # of a stage's row: where its band begins, how high it is
TRIAL_BAND: Final = (0.22, 0.52)  # lower than the band, so that what is behind is seen
UNDONE_BAND: Final = (0.46, 0.04)  # a run that is not through when the training goes on


def choose_steps(lanes: Sequence[LaneRecording]) -> Interval | None:
    """Returns a typical stretch of NUM_STEPS steps, the middle one shut, None if there is none.

    It lies in the steady state: where every lane trains and does nothing else, if that happens.
    There it is the one whose length and trials are the median's, not the one with most trials.
    """
    held = [tenancy(lane) for lane in lanes]
    if not lanes or any(span is None for span in held):
        return None
    both = (max(span[0] for span in held if span), min(span[1] for span in held if span))
    shown = [
        (first.start_ns, last.end_ns)
        for first, *_, last in _stretches(lanes[0].steps)
        if both[0] <= first.start_ns and last.end_ns <= both[1]
    ]
    steady = [span for span in shown if all(_only_trains(lane, span) for lane in lanes)]
    return _median_of(steady or shown, lanes)


def _only_trains(lane: LaneRecording, span: Interval) -> bool:
    kinds = {run.is_training for run in lane.runs if span[0] <= run.start_ns < span[1]}
    return kinds == {True}


def _median_of(spans: Sequence[Interval], lanes: Sequence[LaneRecording]) -> Interval | None:
    if not spans:
        return None
    used = {span: _used_share(lanes, span) for span in spans}
    middle = statistics.median_low(used.values())
    length = statistics.median(end - start for start, end in spans)
    return min(
        spans,
        key=lambda span: abs(used[span] - middle) + abs((span[1] - span[0]) / length - 1),
    )


def _stretches(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Returns the runs of NUM_STEPS steps in a row of which the middle one alone is shut."""
    found = []
    for i in range(len(steps) - NUM_STEPS + 1):
        stretch = tuple(steps[i : i + NUM_STEPS])
        numbers = [step.number - stretch[0].number for step in stretch]
        shut = [step.number for step in stretch if step.is_shut]
        if numbers == list(range(NUM_STEPS)) and shut == [stretch[NUM_STEPS // 2].number]:
            found.append(stretch)
    return found


def _used_share(lanes: Sequence[LaneRecording], span: Interval) -> float:
    """Returns how much of a stretch the trials ran, over all lanes."""
    runs = [intersection([(r.start_ns, r.end_ns) for r in lane.runs], [span]) for lane in lanes]
    return sum(map(length_ns, runs)) / (span[1] - span[0])


def write_picture(lanes: Sequence[LaneRecording], path: Path, *, title: str) -> bool:
    """Draws a typical stretch of steps as PNG, 1200x500. Returns False if none was recorded."""
    span = choose_steps(lanes)
    if span is None:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch
    except ImportError:
        raise ConfigError("matplotlib is missing; run: pip install 'hydro-hpc[report]'") from None
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.07, 0.12, 0.915, 0.68))
    ordered = sorted(lanes, key=_stage)
    for row, lane in enumerate(ordered):
        _draw_lane(axes, lane, span, bottom=len(ordered) - 1 - row)
    _draw_steps(axes, ordered[0].steps, span, top=len(ordered))
    _label_axes(axes, ordered, span)
    figure.text(0.07, 0.93, title, fontsize=15, fontweight="bold", color=INK)
    handles: list[Artist] = [Patch(facecolor=colour, label=label) for colour, label in LEGEND]
    handles.append(Line2D([], [], color=TRAINING, linewidth=2, label="trial interrupted"))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.062, 0.925),
        ncols=len(handles),
        frameon=False,
        fontsize=10,
        handlelength=1.2,
        columnspacing=1.6,
    )
    figure.savefig(path)
    return True


def _draw_lane(axes: Axes, lane: LaneRecording, span: Interval, *, bottom: int) -> None:
    """One stage's band: compute, cut by waits; its bubbles; the trials in them."""
    bubbles = find_bubbles(lane.waits)
    opened = [bubble for bubble in bubbles if bubble.opened_ns]
    shut = [bubble for bubble in bubbles if not bubble.opened_ns]
    waits = union((wait.start_ns, wait.end_ns) for wait in lane.waits)

    def bars(intervals: Intervals, colour: str, band: tuple[float, float] = BAND) -> None:
        shown = intersection(intervals, [span])
        axes.broken_barh(
            [((start - span[0]) / 1e6, (end - start) / 1e6) for start, end in shown],
            (bottom + band[0], band[1]),
            facecolor=colour,
            linewidth=0,
        )

    bars([span], COMPUTE)
    bars(waits, "white")
    bars(intervals_of(opened), BUBBLE)
    bars(intervals_of(shut), SHUT)
    for is_training, colour in ((False, OTHER), (True, TRAINING)):
        runs = union((r.start_ns, r.end_ns) for r in lane.runs if r.is_training == is_training)
        bars(runs, colour, UNDONE_BAND)
        bars(intersection(runs, waits), colour, TRIAL_BAND)


def _draw_steps(axes: Axes, steps: Sequence[Step], span: Interval, *, top: int) -> None:
    """Borders and numbers of the steps, above the bands."""
    for step in steps:
        if not span[0] <= step.start_ns < span[1]:
            continue
        begin, end = (step.start_ns - span[0]) / 1e6, (step.end_ns - span[0]) / 1e6
        axes.axvline(begin, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        text = f"step {step.number}" + (": kept shut, to compare" if step.is_shut else "")
        axes.text((begin + end) / 2, top, text, ha="center", va="bottom", fontsize=10, color=INK)


def _label_axes(axes: Axes, lanes: Sequence[LaneRecording], span: Interval) -> None:
    axes.set_xlim(0, (span[1] - span[0]) / 1e6)
    axes.set_ylim(0, len(lanes))
    names = [f"stage {_stage(lane)}\n{lane.place.node}" for lane in reversed(lanes)]
    axes.set_yticks([row + BAND[0] + BAND[1] / 2 for row in range(len(lanes))], names)
    axes.tick_params(colors=INK, labelsize=10)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("milliseconds", color=INK, fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _stage(lane: LaneRecording) -> int:
    return lane.stage.stage if lane.stage else 0
