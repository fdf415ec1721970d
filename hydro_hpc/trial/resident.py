"""A process of this rank under watch: looks at it and at its lane, and does what `residency` says.

The worker is watched by the device time that it uses. A command's pauser is not: it runs outside
windows by design, and watches the command's processes itself.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from hydro_hpc.devices import cpu_core
from hydro_hpc.identity import is_stopped
from hydro_hpc.page_layout import TrialState
from hydro_hpc.trial.events import (
    Action,
    AskToEnd,
    BuildSeen,
    DeviceUsed,
    End,
    Event,
    LeaveOrdered,
    Pause,
    PrimaryGone,
    Run,
    StopSeen,
)
from hydro_hpc.trial.lane import TenantLane
from hydro_hpc.trial.residency import Residency, advance

PRIMARY_LOOK_NS: Final = 1_000_000_000
TRUSTED_NS: Final = 60_000_000_000


class Resident:
    """One process, from its start to its end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        lane: TenantLane,
        *,
        grace_ns: int,
        leave_ns: int,
        still_ns: int,
        is_gated: bool,
    ) -> None:
        """`is_gated`: its device time is held against the lane's windows. `still_ns`: a primary
        that stands still for so long is gone.
        """
        self._process = process
        self._lane = lane
        self._is_gated = is_gated
        self._still_ns = still_ns
        self._primary_seen_ns = 0
        self._since_ns = time.monotonic_ns()
        self._state = Residency(grace_ns=grace_ns, leave_ns=leave_ns, pauses_itself=True)

    @property
    def is_paused(self) -> bool:
        return self._state.is_paused

    @property
    def is_trusted(self) -> bool:
        """Says whether it has kept to its windows for a minute: then few looks are enough."""
        return time.monotonic_ns() - max(self._since_ns, self._state.struck_ns) > TRUSTED_NS

    def look(self) -> list[Action]:
        """Looks once; returns what was done and what is left for the gang to do."""
        return [action for event in self._observe() for action in self._happened(event)]

    def order_leave(self) -> None:
        """Asks it to end; it is killed by a later look if it does not."""
        self._happened(LeaveOrdered(at_ns=time.monotonic_ns()))

    def _observe(self) -> Iterator[Event]:
        """The gate first, then the device time: what was used before a window closed is not held
        against it.
        """
        now_ns = time.monotonic_ns()
        yield self._lane.look(now_ns)
        pid = self._process.pid
        state = self._lane.trial_state(pid) if self._is_gated else None
        if state == TrialState.TRAINING:
            with contextlib.suppress(ProcessLookupError):
                used_ns = cpu_core.used_ns(pid)
                open_ns = self._lane.open_ns(time.monotonic_ns())
                yield DeviceUsed(at_ns=now_ns, used_ns=used_ns, open_ns=open_ns)
        elif state == TrialState.STARTING:
            yield BuildSeen(at_ns=now_ns)
        yield StopSeen(at_ns=now_ns, is_stopped=is_stopped(pid))
        if now_ns - self._primary_seen_ns > PRIMARY_LOOK_NS:
            self._primary_seen_ns = now_ns
            if reason := self._lane.why_gone(still_ns=self._still_ns):
                yield PrimaryGone(at_ns=now_ns, reason=reason)

    def _happened(self, event: Event) -> tuple[Action, ...]:
        self._state, actions = advance(self._state, event)
        for action in actions:
            self._act(action)
        return actions

    def _act(self, action: Action) -> None:
        if isinstance(action, Pause):
            self._signal(signal.SIGSTOP)
        elif isinstance(action, Run):
            self._signal(signal.SIGCONT)
        elif isinstance(action, AskToEnd):
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
        elif isinstance(action, End):
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
