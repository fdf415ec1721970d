"""One run of an engine's script, and what must hold for every engine that is hooked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydro_hpc.page import Page
from hydro_hpc.page_layout import PrimaryState, Record, RecordKind
from tests.hydro_hpc.ranks import make_lanes, read_stage, run_ranks

SCRIPTS = Path(__file__).parent / "scripts"
OPENED_NS = 2_000_000
WATCH_EVERY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What each rank said in its last line, and each rank's page (none without lanes)."""

    reports: list[dict[str, Any]]
    pages: list[Page]
    states: list[set[int]]  # that each page was seen in while the script ran

    def losses(self, name: str) -> list[list[str]]:
        """Returns each rank's losses, bit by bit, of what the script calls `name`."""
        return [report["losses"][name] for report in self.reports]

    def records(self, rank: int, kind: RecordKind) -> list[Record]:
        return [record for _, record in self.pages[rank].records() if record.kind == kind]


def run_script(
    name: str,
    *arguments: str | int,
    page_dir: Path | None,
    ranks: int = 2,
    environment: Mapping[str, str] | None = None,
    run: Callable[..., list[str]] = run_ranks,
) -> Run:
    """Runs a script of `scripts/`, with lanes in `page_dir` or with the hooks off.

    `run`: as run_ranks, which gives each rank a Python of its own.
    """
    if page_dir is not None:
        make_lanes(page_dir, ranks)
    with _watched(page_dir, ranks) as states:
        outputs = run(
            str(SCRIPTS / f"{name}.py"),
            *(str(argument) for argument in arguments),
            page_dir=page_dir,
            ranks=ranks,
            environment=environment,
        )
    lines = [output.splitlines() for output in outputs]
    reports = [
        json.loads(next(line for line in reversed(own) if line.startswith('{"losses"')))
        for own in lines
    ]
    assert not any("hydro:" in output for output in outputs), "\n".join(outputs)
    pages = [] if page_dir is None else [read_stage(page_dir, rank) for rank in range(ranks)]
    return Run(reports=reports, pages=pages, states=states)


@contextlib.contextmanager
def _watched(page_dir: Path | None, ranks: int) -> Iterator[list[set[int]]]:
    """Collects the states of the pages as long as the block runs."""
    states: list[set[int]] = [set() for _ in range(ranks)]
    is_over = threading.Event()

    def watch() -> None:
        while page_dir is not None and not is_over.wait(WATCH_EVERY_S):
            for rank, seen in enumerate(states):
                seen.add(read_stage(page_dir, rank).get("state"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield states
    finally:
        is_over.set()
        watcher.join()


def check_is_shared(run: Run, *, steps: int) -> None:
    """Every rank counted `steps` steps, all ranks the same ones at mostly the same time, and has
    waits that are lent.
    """
    for rank, page in enumerate(run.pages):
        counted = run.records(rank, RecordKind.STEP)
        assert page.get("num_steps") == len(counted) == steps
        assert PrimaryState.SHARING in run.states[rank]
        assert page.get("state") == PrimaryState.ENDED
        assert page.get_text("reason") == ""
    together_ns = longest_ns = 0
    for step in zip(*(run.records(rank, RecordKind.STEP) for rank in _ranks(run)), strict=True):
        assert len({record.step for record in step}) == 1
        assert len({record.value for record in step}) == 1  # shut on all ranks or on none
        if not step[0].step:
            continue  # an engine's first step begins when its rank is ready
        together_ns += min(r.end_ns for r in step) - max(r.start_ns for r in step)
        longest_ns += max(record.end_ns - record.start_ns for record in step)
    # Not in each step: a rank that loses its core for a moment ends that one late.
    assert together_ns > 0.75 * longest_ns


def _ranks(run: Run) -> range:
    return range(len(run.pages))


def check_opens_windows(run: Run, rank: int) -> None:
    """The rank lent waits, only ones worth it and in no shut step."""
    opened = [record for record in run.records(rank, RecordKind.WAIT) if record.extra]
    assert opened
    assert run.pages[rank].get("num_windows") == len(opened)
    assert all(record.value == 0 or record.value >= OPENED_NS for record in opened)  # 0: late only
    shut = {record.step for record in run.records(rank, RecordKind.STEP) if record.value}
    assert shut
    assert not shut & {record.step for record in opened}
