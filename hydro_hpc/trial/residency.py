"""Who may run on the device, and what makes him stop. Pure: `(state, event) -> (state, actions)`.

An overrun is *device time used after the close*, not a late acknowledgement: a worker in the idle
class is often just not running, or sleeps in a system call, and must not be punished for it.

One who was stopped by somebody else (a debugger, `kill -STOP`, Slurm's suspend) is held by that
one: he is reported and left alone, and continued only so that he can leave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from hydro_hpc.trial.events import (
    Action,
    AskToEnd,
    BuildSeen,
    DeviceUsed,
    End,
    Event,
    GateSeen,
    Leave,
    LeaveOrdered,
    Pause,
    PrimaryGone,
    Report,
    Run,
    StopSeen,
)

STRIKES_UNTIL_END: Final = 10  # overruns, each less than `FORGIVEN_NS` after the one before
FORGIVEN_NS: Final = 60_000_000_000
TOLERATED_PART: Final = 50  # of all time, 2%: windows that end early end in somebody's unit
STOP_REPORTED_NS: Final = 1_000_000_000  # Slurm's resume reaches one process after the other
LEAVE_DEVICE_NS: Final = 5_000_000_000  # a last checkpoint may run outside windows, for so long
OVERRAN: Final = "it used the device outside its windows again and again"
STOPPED: Final = "it was stopped by a signal that is not ours, and waits for SIGCONT"

Actions = tuple[Action, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """What is remembered between two events."""

    grace_ns: int  # device time after a close
    leave_ns: int  # from the order to leave to the end without it
    pauses_itself: bool  # a worker does, by its gate; a command's processes must be paused
    is_paused: bool = False  # by us
    gate: GateSeen | None = None
    measured: DeviceUsed | None = None  # the last look, whatever the gate
    used_ns: int | None = None  # at the last look under this very `gate`, if it is shut
    used_shut_ns: int = 0  # since the last pause, or since this gate was first seen shut
    strikes: int = 0
    struck_ns: int = 0  # when the last one was
    stopped_ns: int | None = None  # since when somebody else has it stopped
    is_stop_reported: bool = False
    is_primary_gone: bool = False
    leave_by_ns: int | None = None
    leave_used_ns: int | None = None  # device time when it was told to leave
    is_ended: bool = False


def advance(state: Residency, event: Event) -> tuple[Residency, Actions]:
    """Returns what is remembered and done after `event`."""
    if state.is_ended:
        return state, ()
    if state.leave_by_ns is not None:
        return _leaving(state, event, state.leave_by_ns)
    if isinstance(event, GateSeen):
        return _gate_seen(state, event)
    if isinstance(event, DeviceUsed):
        return _device_used(state, event)
    if isinstance(event, BuildSeen):
        return replace(state, measured=None, used_ns=None, used_shut_ns=0), ()
    if isinstance(event, StopSeen):
        return _stop_seen(state, event)
    if isinstance(event, PrimaryGone):
        actions: Actions = () if state.is_primary_gone else (Leave(reason=event.reason),)
        return replace(state, is_primary_gone=True), actions
    return _ordered_to_leave(state, event)


def _gate_seen(state: Residency, seen: GateSeen) -> tuple[Residency, Actions]:
    """Time between two looks counts as outside a window only if both saw the same shut gate: then
    no window can have been open in between.
    """
    last = state.gate
    is_same = last is not None and replace(last, at_ns=seen.at_ns) == seen
    state = replace(state, gate=seen)
    if seen.permits or not is_same:
        state = replace(state, used_ns=None, used_shut_ns=0)
    if seen.permits and state.is_paused:
        return replace(state, is_paused=False), (Run(),)
    if not (seen.permits or state.is_paused or state.pauses_itself):
        return replace(state, is_paused=True), (Pause(),)
    return state, ()


def _device_used(state: Residency, used: DeviceUsed) -> tuple[Residency, Actions]:
    """Between two looks at the same shut gate all device time is outside windows; between others,
    what windows cannot have held.
    """
    is_over = _beyond_ns(state.measured, used) > state.grace_ns
    state = replace(state, measured=used)
    if state.gate is None:
        return state, ()
    if not state.gate.permits:
        since_ns = 0 if state.used_ns is None else used.used_ns - state.used_ns
        shut_ns = state.used_shut_ns + since_ns
        state = replace(state, used_ns=used.used_ns, used_shut_ns=shut_ns)
        is_over = is_over or shut_ns > state.grace_ns
    return _strike(state, used.at_ns) if is_over else (state, ())


def _beyond_ns(last: DeviceUsed | None, used: DeviceUsed) -> int:
    if last is None or last.open_ns is None or used.open_ns is None:
        return 0
    allowed_ns = used.open_ns - last.open_ns + (used.at_ns - last.at_ns) // TOLERATED_PART
    return used.used_ns - last.used_ns - allowed_ns


def _strike(state: Residency, at_ns: int) -> tuple[Residency, Actions]:
    is_forgiven = at_ns - state.struck_ns > FORGIVEN_NS
    strikes = 1 if is_forgiven else state.strikes + 1
    state = replace(state, used_shut_ns=0, strikes=strikes, struck_ns=at_ns)
    if strikes >= STRIKES_UNTIL_END:
        return replace(state, is_ended=True), (End(reason=OVERRAN),)
    if state.gate is not None and state.gate.permits:
        return state, ()  # now it may run
    return replace(state, is_paused=True), (Pause(),)


def _stop_seen(state: Residency, seen: StopSeen) -> tuple[Residency, Actions]:
    if not seen.is_stopped or state.is_paused:
        return replace(state, stopped_ns=None, is_stop_reported=False), ()
    if state.stopped_ns is None:
        return replace(state, stopped_ns=seen.at_ns), ()
    if state.is_stop_reported or seen.at_ns - state.stopped_ns < STOP_REPORTED_NS:
        return state, ()
    return replace(state, is_stop_reported=True), (Report(text=STOPPED),)


def _ordered_to_leave(state: Residency, order: LeaveOrdered) -> tuple[Residency, Actions]:
    leaving = replace(state, is_paused=False, leave_by_ns=order.at_ns + state.leave_ns)
    return leaving, (AskToEnd(),)


def _leaving(state: Residency, event: Event, leave_by_ns: int) -> tuple[Residency, Actions]:
    """It runs on, in no window, so that it can end; not for long."""
    is_late = event.at_ns > leave_by_ns
    if isinstance(event, DeviceUsed):
        first_ns = event.used_ns if state.leave_used_ns is None else state.leave_used_ns
        state = replace(state, leave_used_ns=first_ns)
        is_late = is_late or event.used_ns - first_ns > LEAVE_DEVICE_NS
    return (replace(state, is_ended=True), (End(),)) if is_late else (state, ())
