"""A recording as a trace in Chrome's format, for ui.perfetto.dev or chrome://tracing.

One process per stage with three tracks: steps, bubbles, trials. The nodes of an embedded cluster
share one host, hence one CLOCK_MONOTONIC; times start at the first record, in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hydro_hpc.report.bubbles import find_bubbles
from hydro_hpc.report.recording import LaneRecording

STEPS, BUBBLES, TRIALS = 1, 2, 3
TRACKS: Final = {STEPS: "steps", BUBBLES: "bubbles", TRIALS: "trials"}

Event = dict[str, Any]


def trace(lanes: Sequence[LaneRecording]) -> dict[str, Any]:
    """Returns the trace as JSON data."""
    starts = [
        item.start_ns
        for lane in lanes
        for items in (lane.steps, lane.waits, lane.runs)
        for item in items
    ]
    origin_ns = min(starts, default=0)
    events = [
        event for number, lane in enumerate(lanes) for event in _events(lane, number, origin_ns)
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_trace(lanes: Sequence[LaneRecording], path: Path) -> None:
    path.write_text(json.dumps(trace(lanes), separators=(",", ":")), encoding="utf-8")


def _events(lane: LaneRecording, process: int, origin_ns: int) -> Iterator[Event]:
    stage = lane.stage.stage if lane.stage else 0
    title = f"stage {stage} ({lane.place.node}, device {lane.place.device})"
    yield _named("process_name", title, process, 0)
    for track, name in TRACKS.items():
        yield _named("thread_name", name, process, track)

    def span(track: int, name: str, start_ns: int, end_ns: int, **about: Any) -> Event:
        return {
            "ph": "X",
            "pid": process,
            "tid": track,
            "name": name,
            "ts": (start_ns - origin_ns) / 1000,
            "dur": (end_ns - start_ns) / 1000,
            "args": about,
        }

    for step in lane.steps:
        name = f"step {step.number}" + (" (shut)" if step.is_shut else "")
        yield span(STEPS, name, step.start_ns, step.end_ns, shut=step.is_shut)
    for bubble in find_bubbles(lane.waits):
        opened = bubble.opened_ns
        yield span(
            BUBBLES,
            "bubble" if opened else "bubble (shut)",
            bubble.start_ns,
            bubble.end_ns,
            predicted_ms=bubble.predicted_ns / 1e6,
            opened_after_ms=(opened - bubble.start_ns) / 1e6 if opened else None,
        )
    for run in lane.runs:
        name = "training" if run.is_training else "evaluation, checkpoint or start"
        yield span(
            TRIALS, name, run.start_ns, run.end_ns, device_ms=run.device_ns / 1e6, rows=run.samples
        )


def _named(what: str, name: str, process: int, track: int) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}}
