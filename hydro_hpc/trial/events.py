"""What can happen to a resident (a worker, or a command's processes), and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSeen:
    """One look at the lane. `is_held`: guard, owner or site keep the bubbles to themselves."""

    at_ns: int
    word: int
    is_open: bool
    is_held: bool = False

    @property
    def permits(self) -> bool:
        return self.is_open and not self.is_held


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsed:
    """One look at the device time used so far, in all; taken after the gate was looked at.

    `open_ns`: how long windows have been open so far, in all; taken after the device time.
    """

    at_ns: int
    used_ns: int
    open_ns: int | None = None  # not known


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSeen:
    """It prepares a bundle outside the gate, in the idle class: it is not measured meanwhile."""

    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSeen:
    """Whether the resident is stopped by SIGSTOP, by whomever."""

    at_ns: int
    is_stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryGone:
    """The lane will not open again."""

    at_ns: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOrdered:
    """The gang leaves."""

    at_ns: int


Event = GateSeen | DeviceUsed | BuildSeen | StopSeen | PrimaryGone | LeaveOrdered


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Let it run on (SIGCONT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Stop it (SIGSTOP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskToEnd:
    """Ask it to end (SIGTERM), running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Kill it. The reason is empty if it was to leave, and did not in time."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Tell the gang that this rank's lane is gone."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Tell the user; nothing else is done."""

    text: str


Action = Run | Pause | AskToEnd | End | Leave | Report
