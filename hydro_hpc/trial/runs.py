"""What a gate tells the world about its runs: records and totals in the trial's page.

A *run* is the time between two pauses; `run_notes` says when they are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hydro_hpc.page import Page
from hydro_hpc.page_layout import Gate as GateWord
from hydro_hpc.page_layout import Record, RecordKind

OVERRUN_NS: Final = 500_000  # device time after a close that counts as an overrun


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run, CLOCK_MONOTONIC nanoseconds and device time."""

    kind: RecordKind
    word: int  # the OPEN that it ran in
    step: int  # of the primary
    start_ns: int
    end_ns: int
    device_ns: int
    late_ns: int  # how long ago the window had closed when it ended, 0 if it had not
    num_samples: int

    @property
    def overrun_ns(self) -> int:
        """Device time after the close: all of the time since, but for what the primary had of it.
        Before the close nobody else wanted the device, and a worker that the kernel kept from
        running did not overrun.
        """
        kept_off_ns = self.end_ns - self.start_ns - self.device_ns
        return max(0, min(self.late_ns - kept_off_ns, self.device_ns))


class RunWriter:
    """Writes the runs of one worker into its trial page."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def write(self, run: EndedRun, *, margin_ns: int) -> None:
        """A run that went on after the close has a record of its own for that: what it used then
        may lie far apart, since the primary has the core in between.
        """
        if run.late_ns:
            overrun_ns = run.overrun_ns
            closed_ns = run.end_ns - run.late_ns
            before_ns = run.device_ns - overrun_ns
            self._record(run, run.start_ns, closed_ns, before_ns, run.num_samples)
            self._record(run, closed_ns, run.end_ns, overrun_ns, 0)
            self._count_overrun(overrun_ns)
        else:
            self._record(run, run.start_ns, run.end_ns, run.device_ns, run.num_samples)
        self._page.set("margin_ns", margin_ns)
        self._page.set("heartbeat_ns", run.end_ns)

    def _record(
        self, run: EndedRun, start_ns: int, end_ns: int, device_ns: int, num_samples: int
    ) -> None:
        page = self._page
        quads = page.quads
        page.append(
            Record(
                kind=run.kind,
                start_ns=start_ns,
                end_ns=end_ns,
                label=GateWord.unpack(run.word).label,
                step=run.step,
                value=device_ns,
                extra=num_samples,
            )
        )
        total = "run_ns" if run.kind == RecordKind.RUN else "other_ns"
        quads[page.quad_index(total)] += device_ns
        quads[page.quad_index("num_runs")] += 1
        quads[page.quad_index("num_samples")] += num_samples

    def _count_overrun(self, overrun_ns: int) -> None:
        page = self._page
        if overrun_ns > OVERRUN_NS:
            page.quads[page.quad_index("num_overruns")] += 1
            if overrun_ns > page.get("overrun_max_ns"):
                page.set("overrun_max_ns", overrun_ns)
