"""How much of the bubbles the trials used, from what the flight recorders saw. Pure.

A *bubble* is time in which the primary waits in communication calls, gaps under 200 us merged, of
2 ms or more in all, opened or not, held or not; parts that lie in scheduled shut steps do not
count. The *harvest* is the device time of training (not of evaluation, checkpoints or search) that
lies inside bubbles; *harvest share* is harvest / bubble time.

Everything is taken over the *tenancy* of the lane: from the worker's first to its last training
run. Its start (imports, binding) and the time after the study are not in it. A run that lies
partly in bubbles counts with that part of its device time, as if it had been spread evenly: too
little where the worker only waited for its core to stop, as in the idle class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hydro_hpc.report.bubbles import find_bubbles, intervals_of
from hydro_hpc.report.intervals import (
    Interval,
    Intervals,
    intersection,
    length_ns,
    overlap_ns,
    union,
)
from hydro_hpc.report.recording import LaneRecording, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """The account of one lane over its tenancy, in seconds."""

    stage: int
    wall_s: float  # of the steps that were not shut
    bubble_s: float
    open_s: float  # of the bubbles, with the gate open
    harvest_s: float
    training_s: float  # device time of all training, wherever it fell
    other_s: float  # device time of other gated work, wherever it fell
    outside_s: float  # device time of both outside of every wait of 2 ms or more, shut steps too

    @property
    def bubble_share(self) -> float:
        """Bubble time per time of those steps."""
        return _ratio(self.bubble_s, self.wall_s)

    @property
    def harvest_share(self) -> float:
        return _ratio(self.harvest_s, self.bubble_s)


def tenancy(lane: LaneRecording) -> Interval | None:
    """Returns from when to when the worker trained, None if it never did."""
    training = [run for run in lane.runs if run.is_training]
    if not training:
        return None
    return min(run.start_ns for run in training), max(run.end_ns for run in training)


def harvest(lane: LaneRecording) -> Harvest:
    """Returns the account of a lane; all zero if it had no tenant that trained."""
    held = tenancy(lane)
    span: Intervals = [held] if held else []
    steps = ((step.start_ns, step.end_ns) for step in lane.steps if not step.is_shut)
    shared = intersection(span, union(steps))
    waits = intervals_of(find_bubbles(lane.waits))
    counted = intersection(waits, shared)
    opened = union((w.opened_ns, w.end_ns) for w in lane.waits if w.opened_ns)
    training = [run for run in lane.runs if run.is_training]
    other = [run for run in lane.runs if not run.is_training]
    return Harvest(
        stage=lane.stage.stage if lane.stage else 0,
        wall_s=length_ns(shared) / 1e9,
        bubble_s=length_ns(counted) / 1e9,
        open_s=length_ns(intersection(counted, opened)) / 1e9,
        harvest_s=_device_ns(training, counted) / 1e9,
        training_s=_device_ns(training, span) / 1e9,
        other_s=_device_ns(other, span) / 1e9,
        outside_s=(_device_ns(lane.runs, span) - _device_ns(lane.runs, intersection(waits, span)))
        / 1e9,
    )


def _device_ns(runs: Iterable[Run], inside: Intervals) -> float:
    """Returns the device time of runs that lies inside, each spread evenly over its length."""
    total = 0.0
    for run in runs:
        length = run.end_ns - run.start_ns
        if length > 0:
            total += run.device_ns * overlap_ns((run.start_ns, run.end_ns), inside) / length
    return total


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
