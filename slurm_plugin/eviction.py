"""The eviction barrier's work: tenants leave their devices, by request, then by force; checked.

Standard library only, any Python from 3.9: it runs as root in prologs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from slurm_plugin.step_processes import Step, ask_to_end, kill_once, members

POLL_S = 0.01


def end_steps(steps: Sequence[Step], *, grace_s: float, kill_s: float) -> list[Step]:
    """Ends all processes of the steps; returns the steps in which one is still there.

    Their first processes are asked to end, all at once; after the grace time whatever is left is
    killed until nothing is. Takes at most the sum of both times.
    """
    for step in steps:
        ask_to_end(step)
    left = _wait_until_empty(steps, time.monotonic() + grace_s)
    deadline = time.monotonic() + kill_s
    while left and time.monotonic() < deadline:
        for step in left:
            kill_once(step)
        left = _wait_until_empty(left, min(deadline, time.monotonic() + 10 * POLL_S))
    return left


def _wait_until_empty(steps: Sequence[Step], deadline: float) -> list[Step]:
    left = [step for step in steps if members(step)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [step for step in left if members(step)]
    return left
