"""Bubbles out of the primary's recorded waits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hydro_hpc.report.intervals import Intervals
from hydro_hpc.report.recording import Wait

MERGE_GAP_NS: Final = 200_000
BUBBLE_NS: Final = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubble:
    """Waits with gaps under 200 us between them, 2 ms or more in all."""

    start_ns: int
    end_ns: int
    predicted_ns: int  # of its longest prediction
    opened_ns: int  # when the gate was opened first; 0 = it stayed shut


def find_bubbles(waits: Iterable[Wait]) -> list[Bubble]:
    """Returns the bubbles of one lane in order of time, those of shut steps too."""
    merged: list[Bubble] = []
    for wait in sorted(waits, key=lambda wait: wait.start_ns):
        last = merged[-1] if merged else None
        if last is not None and wait.start_ns - last.end_ns < MERGE_GAP_NS:
            merged[-1] = replace(
                last,
                end_ns=max(last.end_ns, wait.end_ns),
                predicted_ns=max(last.predicted_ns, wait.predicted_ns),
                opened_ns=last.opened_ns or wait.opened_ns,
            )
        else:
            merged.append(
                Bubble(
                    start_ns=wait.start_ns,
                    end_ns=wait.end_ns,
                    predicted_ns=wait.predicted_ns,
                    opened_ns=wait.opened_ns,
                )
            )
    return [bubble for bubble in merged if bubble.end_ns - bubble.start_ns >= BUBBLE_NS]


def intervals_of(bubbles: Sequence[Bubble]) -> Intervals:
    return [(bubble.start_ns, bubble.end_ns) for bubble in bubbles]
