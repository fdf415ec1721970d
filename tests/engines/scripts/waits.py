"""What a rank's communication takes, as the one who calls it sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Waits:
    """Sums calls up. The rank is blocked where it neither runs nor stands in line for a core, so
    `blocked_ns` does not depend on how busy the machine is with others.
    """

    def __init__(self) -> None:
        self.elapsed_ns = 0
        self.blocked_ns = 0
        # As the kernel's sched-stats.rst numbers them: time on a core, time in line for one, ...
        self._scheduling = Path("/proc/thread-self/schedstat")

    def timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        not_blocked_ns = -self._not_blocked_ns()
        elapsed_ns = -time.monotonic_ns()
        result = function(*args, **kwargs)
        elapsed_ns += time.monotonic_ns()
        not_blocked_ns += self._not_blocked_ns()
        self.elapsed_ns += elapsed_ns
        self.blocked_ns += elapsed_ns - not_blocked_ns
        return result

    def as_report(self) -> dict[str, int]:
        return {"elapsed_ns": self.elapsed_ns, "blocked_ns": self.blocked_ns}

    def _not_blocked_ns(self) -> int:
        in_line_ns = int(self._scheduling.read_text().split()[1])
        return in_line_ns + time.thread_time_ns()
