"""A primary that changes, and a trial that slows it: what prediction and guard do about it, live.

python -m benchmarks.changes [--quick] [--out FILE] [--pictures DIR]     (on an idle machine)

A real primary (benchmarks/changing_primary.py, two stages) lends to real bundles by the flags
alone. Recovery: steps from a change until half of the bubble time of a step is opened again. Guard:
steps from the first slowed one until bubbles are held, with the bound that users have, 1%.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.changes_pictures import GuardSeen, draw_guard, draw_prediction
from benchmarks.result_file import Figure, NotTaken, make_parser, write_result
from benchmarks.running import UngatedTrials, local_primary
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.report.bubbles import BUBBLE_NS, find_bubbles
from hydro_hpc.report.lanes import LanePlace
from hydro_hpc.report.recording import LaneRecorder, LaneRecording
from tests.hydro_hpc.lanes import make_lane

LONGER_AT: Final = 100
MORE_AT: Final = 160
SLOW_FROM: Final = 300
SLOW_BY: Final = 0.10
STEPS: Final = 500
DENSE_STEPS: Final = 10**6
LOOK_S: Final = 0.1
STUDY: Final = Path(__file__).parent / "digits_endless.py"


@dataclass(slots=True)
class Run:
    """One run of the primary."""

    lanes: list[LaneRecording]
    guard: list[GuardSeen] = field(default_factory=list)


def run_once(directory: Path) -> Run:
    """Runs the primary beside two bundles to its last step."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    lanes = directory / "lanes"
    places = [
        LanePlace(
            node="here", device=number, path=make_lane(lanes, number, core=core, tenant_job=2)
        )
        for number, core in enumerate(cores)
    ]
    options = [f"--longer-at={LONGER_AT}", f"--more-at={MORE_AT}"]
    options += [f"--slow-from={SLOW_FROM}", f"--slow-by={SLOW_BY}"]
    command = ["-m", "benchmarks.changing_primary", *options]
    settings = {"HYDRO_GUARD_BOUND": "0.01", "HYDRO_GUARD_DENSE_STEPS": str(DENSE_STEPS)}
    recorders = [LaneRecorder(place=place) for place in places]
    guard: list[GuardSeen] = []
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(
            local_primary(
                directory, cores, command, name="changing", lanes=lanes, settings=settings
            )
        )
        primary.run_block(1, settle=5)
        primary.ranks.go_on()
        trials = UngatedTrials(directory, cores, study=STUDY, slots=16, lanes=lanes)
        stack.callback(trials.close)
        trials.group.go_on()
        while not guard or guard[-1].step < STEPS:
            time.sleep(LOOK_S)
            for recorder in recorders:
                recorder.read()
            guard.append(look(places[0].path))
    return Run(lanes=[recorder.recording() for recorder in recorders], guard=guard)


def look(lane: str) -> GuardSeen:
    page = Page.read_copy(page_path(lane, PageKind.STAGE), PageKind.STAGE)
    return GuardSeen(
        step=page.get("step"),
        is_holding=page.get("guard_word") == Word.HOLD,
        trips=page.get("guard_trips"),
        slowdown=page.get("slowdown_ppm") / 1e6,
        low=page.get("slowdown_low_ppm") / 1e6,
        high=page.get("slowdown_high_ppm") / 1e6,
    )


def recovery_steps(lane: LaneRecording, changed_at: int) -> int | None:
    """Returns how many steps after a change pass until half of an open step's bubble time is
    opened again; None if that did not happen within 40."""
    for step in lane.steps:
        if not changed_at <= step.number < changed_at + 40 or step.is_shut:
            continue
        bubbles = find_bubbles(wait for wait in lane.waits if wait.step == step.number)
        bubbles = [b for b in bubbles if b.end_ns - b.start_ns >= BUBBLE_NS]
        total_ns = sum(bubble.end_ns - bubble.start_ns for bubble in bubbles)
        open_ns = sum(bubble.end_ns - bubble.opened_ns for bubble in bubbles if bubble.opened_ns)
        if total_ns and 2 * open_ns >= total_ns:
            return step.number - changed_at
    return None


def steps_to_hold(run: Run) -> int | None:
    """Returns how many steps after the first slowed one bubbles were held for the first time."""
    return next(
        (seen.step - SLOW_FROM for seen in run.guard if seen.step > SLOW_FROM and seen.is_holding),
        None,
    )


def early_trips(run: Run) -> int:
    """Returns how often the guard had tripped before anything was slowed."""
    return max((seen.trips for seen in run.guard if seen.step <= SLOW_FROM), default=0)


def as_figure(values: list[int | None], unit: str) -> Figure | NotTaken:
    known = [value for value in values if value is not None]
    if not known:
        return NotTaken(why="it did not happen in any run")
    middle = statistics.median(known)
    return Figure(median=middle, low=min(known), high=max(known), n=len(known), unit=unit)


def main() -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw prediction and guard")
    arguments = parser.parse_args()
    runs = []
    for _ in range(1 if arguments.quick else 3):
        with tempfile.TemporaryDirectory() as directory:
            runs.append(run_once(Path(directory)))
    figures: dict[str, Figure | NotTaken] = {
        name: as_figure(
            [recovery_steps(lane, at) for run in runs for lane in run.lanes], "steps, range"
        )
        for name, at in (("recovery_longer", LONGER_AT), ("recovery_more", MORE_AT))
    }
    figures["guard_steps_to_hold_10pct"] = as_figure(
        [steps_to_hold(run) for run in runs], "steps, range"
    )
    rows: list[dict[str, Any]] = [
        {"trips_before_anything_was_slowed": early_trips(run), "of_steps": SLOW_FROM}
        for run in runs
    ]
    write_result("changes", figures=figures, rows=rows, out=arguments.out)
    if arguments.pictures is not None:
        changes = {LONGER_AT: "longer sequences", MORE_AT: "shorter again, more microbatches"}
        draw_prediction(runs[0].lanes[1], changes, arguments.pictures / "prediction.png")
        draw_guard(runs[0].lanes[0], runs[0].guard, SLOW_FROM, arguments.pictures / "guard.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
