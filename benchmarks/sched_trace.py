"""Who ran when, from the kernel's scheduling events: tracefs, an instance of our own, root only.

The worker's CPU time is held against the primary's *real* waits: the times in which the given
threads of the rank (its training thread, or all of them) were blocked, as the scheduler saw it.
Neither side's own counters are used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
_SWITCH = re.compile(
    r"\s(?P<at>\d+\.\d+): sched_switch: .*?prev_pid=(?P<prev>\d+) prev_prio=-?\d+ "
    r"prev_state=(?P<state>\S+) ==> .*?next_pid=(?P<next>\d+) "
)
_WAKING = re.compile(r"\s(?P<at>\d+\.\d+): sched_waking: .*?\bpid=(?P<pid>\d+) ")


@dataclass(frozen=True, slots=True)
class Switch:
    """The core went from `prev` (blocked, or still wanting to run) to `next` at `at_us`."""

    at_us: float
    prev: int
    is_blocked: bool
    next: int


@dataclass(frozen=True, slots=True)
class Waking:
    """Thread `tid` became runnable."""

    at_us: float
    tid: int


Event = Switch | Waking


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """CPU time of workers, in all and while some thread of the primary wanted to run, in us."""

    worker_us: float
    outside_us: float


class SchedTrace:
    """A tracefs instance that sees the given threads only."""

    def __init__(self, tids: Iterable[int]) -> None:
        """Raises OSError where scheduling events cannot be traced."""
        if not (TRACEFS / "instances").is_dir():
            os.system(f"mount -t tracefs tracefs {TRACEFS} 2>/dev/null")
        self._dir = TRACEFS / "instances" / f"hydro-{os.getpid()}"
        self._dir.mkdir()
        ids = list(tids)
        self._write("trace_clock", "mono")
        self._write("buffer_size_kb", "16384")
        switch = "||".join(f"prev_pid=={tid}||next_pid=={tid}" for tid in ids)
        self._write("events/sched/sched_switch/filter", switch)
        self._write("events/sched/sched_waking/filter", "||".join(f"pid=={tid}" for tid in ids))
        for event in ("sched_switch", "sched_waking"):
            self._write(f"events/sched/{event}/enable", "1")

    def start(self) -> None:
        self._write("trace", "")
        self._write("tracing_on", "1")

    def stop(self) -> list[Event]:
        """Returns what was seen since `start`."""
        self._write("tracing_on", "0")
        text = (self._dir / "trace").read_text(encoding="utf-8", errors="replace")
        return list(parse(text.splitlines()))

    def close(self) -> None:
        self._write("tracing_on", "0")
        self._dir.rmdir()

    def _write(self, name: str, text: str) -> None:
        (self._dir / name).write_text(text, encoding="ascii")


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Yields the events of a trace in text form."""
    for line in lines:
        if found := _SWITCH.search(line):
            is_blocked = not found["state"].startswith("R")
            at_us = float(found["at"]) * 1e6
            yield Switch(at_us, int(found["prev"]), is_blocked, int(found["next"]))
        elif found := _WAKING.search(line):
            yield Waking(float(found["at"]) * 1e6, int(found["pid"]))


def outside_share(events: Iterable[Event], *, primary: set[int], workers: set[int]) -> Share:
    """Returns how much of the workers' CPU time fell outside the waits of their core's primary.

    `primary`: the thread ids of one rank; `workers`: those of the trial on its core. A thread of
    the primary that has not been seen yet counts as blocked.
    """
    wanting: set[int] = set()  # threads of the primary that run or could run
    running_since: dict[int, float] = {}  # of workers
    worker_us = outside_us = 0.0
    last_us = 0.0
    for event in events:
        if running_since:
            length_us = (event.at_us - last_us) * len(running_since)
            worker_us += length_us
            outside_us += length_us if wanting else 0.0
        last_us = event.at_us
        match event:
            case Waking(_, tid):
                if tid in primary:
                    wanting.add(tid)
            case Switch(_, prev, is_blocked, following):
                if is_blocked:
                    wanting.discard(prev)
                wanting |= primary & {following} if is_blocked else primary & {prev, following}
                running_since.pop(prev, None)
                if following in workers:
                    running_since[following] = event.at_us
    return Share(worker_us=worker_us, outside_us=outside_us)
