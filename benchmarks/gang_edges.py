"""What the coming and going of a gang costs the primary: its steps while a gang imports, builds and
times its bundle, and while it stores its trials and ends.

python -m benchmarks.gang_edges [--quick] [--out FILE]                  (on an idle machine)

The example primary on two cores lends one of them to a real `hydro-trial`, in the kernel's idle
class as users have it, again and again. Figures: the largest of the steps at the edges, the trial's
own training left out, against the 99% quantile of the shut steps of the same run; and how many edge
steps are over 1.05 times that quantile, with the same share of steps without a gang beside it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.blocks import ALWAYS_DENSE
from benchmarks.many_stages import trials_beside
from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from benchmarks.running import TRAIN, Line, Primary, local_primary
from hydro_hpc.primary.guard import is_shut
from tests.hydro_hpc.lanes import make_lane

GANGS: Final = 6
QUICK_GANGS: Final = 1
ALONE_S: Final = 20.0  # before each gang
TRAINS_S: Final = 3.0  # between the edges
AFTER_S: Final = 1.0  # what a gang leaves behind, its last writes say
BEYOND: Final = 1.05


def steps_of(primary: Primary, seconds: float) -> list[Line]:
    """Returns the steps of the next `seconds`."""
    primary.losses.read()
    time.sleep(seconds)
    return primary.losses.read()


def p99_s(steps: Sequence[Line]) -> float:
    ordered = sorted(line.step_s for line in steps)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def share(count: int, of: Sequence[Line]) -> Figure | NotTaken:
    if not of:
        return NotTaken(why="no step of this kind was seen")
    found = count / len(of)
    return Figure(median=found, low=found, high=found, n=len(of), unit="1")


def main() -> int:
    arguments = parse_arguments(__doc__.partition("\n")[0])
    cores = sorted(os.sched_getaffinity(0))[:2]
    alone: list[Line] = []
    edges: list[Line] = []
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lanes = directory / "lanes"
        paths = [make_lane(lanes, number, core=core) for number, core in enumerate(cores)]
        primary = stack.enter_context(
            local_primary(directory, cores, [str(TRAIN)], name="edges", lanes=lanes)
        )
        primary.run_block(1, settle=20)
        primary.ranks.go_on()
        steps_of(primary, 2.0)
        for number in range(QUICK_GANGS if arguments.quick else GANGS):
            alone += steps_of(primary, ALONE_S)
            with trials_beside(directory, paths[0], HYDRO_IDLE_CLASS="1"):
                coming = primary.losses.read()
                steps_of(primary, TRAINS_S)
            going = primary.losses.read() + steps_of(primary, AFTER_S)
            edges += coming + going
            rows.append(
                {
                    "gang": number,
                    "coming_steps": len(coming),
                    "coming_max_ms": 1e3 * max(line.step_s for line in coming),
                    "going_steps": len(going),
                    "going_max_ms": 1e3 * max(line.step_s for line in going),
                }
            )
    shut = [line for line in alone + edges if is_shut(line.step, ALWAYS_DENSE)]
    bound_s = p99_s(shut)
    worst = max(line.step_s for line in edges) / bound_s
    figures: dict[str, Figure | NotTaken] = {
        "largest_edge_step": Figure(
            median=worst, low=worst, high=worst, n=len(edges), unit="of the shut steps' p99"
        ),
        "edge_steps_beyond": share(sum(line.step_s > BEYOND * bound_s for line in edges), edges),
        "alone_steps_beyond": share(sum(line.step_s > BEYOND * bound_s for line in alone), alone),
    }
    rows.append({"shut_steps": len(shut), "p99_ms": 1e3 * bound_s})
    rows.append({"largest_alone_step": max(line.step_s for line in alone) / bound_s})
    write_result("gang_edges", figures=figures, rows=rows, out=arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
