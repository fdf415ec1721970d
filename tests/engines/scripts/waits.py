"""What a rank's communication takes, as the one who calls it sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydro_hpc.primary.publisher import MERGE_GAP_NS


class Waits:
    """Sums calls up, and what is between two of them so near that a page takes them for one.

    The rank is blocked where it neither runs nor stands in line for a core, so `blocked_ns` does
    not depend on how busy the machine is with others.
    """

    def __init__(self) -> None:
        self.elapsed_ns = 0
        self.blocked_ns = 0
        self._ended_ns = 0  # the last call
        # As the kernel's sched-stats.rst numbers them: time on a core, time in line for one, ...
        self._scheduling = Path("/proc/thread-self/schedstat")

    def timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        not_blocked_ns = -self._not_blocked_ns()
        started_ns = time.monotonic_ns()
        result = function(*args, **kwargs)
        gap_ns = started_ns - self._ended_ns
        self._ended_ns = time.monotonic_ns()
        not_blocked_ns += self._not_blocked_ns()
        call_ns = self._ended_ns - started_ns
        self.elapsed_ns += call_ns + (gap_ns if gap_ns < MERGE_GAP_NS else 0)
        self.blocked_ns += call_ns - not_blocked_ns
        return result

    def as_report(self) -> dict[str, int]:
        return {"elapsed_ns": self.elapsed_ns, "blocked_ns": self.blocked_ns}

    def _not_blocked_ns(self) -> int:
        in_line_ns = int(self._scheduling.read_text().split()[1])
        return in_line_ns + time.thread_time_ns()
