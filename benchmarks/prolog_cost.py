"""What Hydro's prolog and epilog cost a job: the scripts themselves, as slurmd runs them.

A job that is not Hydro's, on a node without trials, is the case that every job of a site pays.
`start` is what starting any shell script costs here; it is part of the other figures.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import slurm_plugin
from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from slurm_plugin.build_lanes import build

SOURCES = Path(slurm_plugin.__file__).parent
INSTALLED = "config=/etc/slurm/hydro/lanes.conf\n"
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_PARTITION": "main"}


class Node:
    """A made-up node of one device with scripts, settings and a page directory of its own."""

    def __init__(self, root: Path) -> None:
        self.pages = root / "pages"
        (self.pages / "gpu0").mkdir(parents=True)
        (self.pages / "jobs").mkdir()
        config = root / "lanes.conf"
        program = build(root / "hydro-lanes.pyz")
        config.write_text(f"[lanes]\npage_dir = {self.pages}\nprogram = {program}\n")
        self.start = root / "start"
        self.start.write_text("#!/bin/sh\nexit 0\n")
        self.prolog, self.epilog = root / "prolog", root / "epilog"
        for path in (self.prolog, self.epilog):
            text = (SOURCES / f"{path.name}.d/50-hydro").read_text()
            path.write_text(text.replace(INSTALLED, f"config={config}\n"))
        for path in (self.start, self.prolog, self.epilog):
            path.chmod(0o755)

    def lend(self) -> None:
        """Leaves what a lane without a tenant has."""
        (self.pages / "gpu0/site").touch()
        (self.pages / "gpu0/stage").touch()

    def note_job(self) -> None:
        (self.pages / "jobs/7").write_text("lender\n")


def milliseconds(script: Path, environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    pid = os.posix_spawn(str(script), [str(script)], JOB | environment)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return (time.perf_counter() - begin) * 1e3


def figure(script: Path, repeats: int, before: Callable[[], None], **environment: str) -> Figure:
    times = []
    for _ in range(repeats):
        before()
        times.append(milliseconds(script, environment))
    low, median, high = statistics.quantiles(times, n=4)
    return Figure(median=median, low=low, high=high, n=repeats, unit="ms (quartiles)")


def main() -> None:
    arguments = parse_arguments("What Hydro's prolog and epilog cost a job")
    repeats = 50 if arguments.quick else 400
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))

        def nothing() -> None:
            """Nothing is to be prepared."""

        figures: dict[str, Figure | NotTaken] = {
            "start_ms": figure(node.start, repeats, nothing),
            "prolog_other_ms": figure(node.prolog, repeats, nothing),
            "epilog_other_ms": figure(node.epilog, repeats, nothing),
        }
        node.lend()
        figures["prolog_other_lent_ms"] = figure(node.prolog, repeats, nothing)
        figures["prolog_lender_ms"] = figure(
            node.prolog, repeats // 5, nothing, SPANK_HYDRO_BUBBLE="1"
        )
        figures["epilog_lender_ms"] = figure(node.epilog, repeats // 5, node.note_job)
    write_result("prolog_cost", figures=figures, rows=[], out=arguments.out)


if __name__ == "__main__":
    main()
