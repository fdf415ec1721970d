"""What to do about a worker that uses the device outside its windows. Pure: observations in,
actions out.

An overrun is *device time used after the close*, not a late acknowledgement: a worker in the idle
class is often just not running, and must not be punished for it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

STRIKES_UNTIL_END: Final = 10  # stops without `CLEAN_UNTIL_FORGIVEN` clean looks in between
CLEAN_UNTIL_FORGIVEN: Final = 500


class Action(enum.Enum):
    NONE = enum.auto()
    STOP = enum.auto()  # SIGSTOP
    CONTINUE = enum.auto()  # SIGCONT
    END = enum.auto()  # the worker ignores the gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at lane and worker: the gate's word, and the device time used so far."""

    is_open: bool
    word: int
    used_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What the watchdog remembers between two looks."""

    grace_ns: int
    last: Look | None = None
    used_shut_ns: int = 0  # device time since the gate was first seen closed
    is_stopped: bool = False
    strikes: int = 0
    clean: int = 0


def decide(watch: Watch, look: Look) -> tuple[Watch, Action]:
    """Returns what is remembered and done after `look`.

    Time between two looks counts as outside a window only if both saw the same closed word: then no
    window can have been open in between.
    """
    last = watch.last
    watch = replace(watch, last=look)
    if look.is_open:
        return _seen_open(watch)
    if last is None or last.is_open or last.word != look.word:
        return replace(watch, used_shut_ns=0), Action.NONE
    used_ns = watch.used_shut_ns + look.used_ns - last.used_ns
    if used_ns <= watch.grace_ns:
        return replace(watch, used_shut_ns=used_ns), Action.NONE
    if watch.is_stopped:
        return watch, Action.NONE
    strikes = watch.strikes + 1
    action = Action.END if strikes >= STRIKES_UNTIL_END else Action.STOP
    return replace(watch, used_shut_ns=0, is_stopped=True, strikes=strikes, clean=0), action


def _seen_open(watch: Watch) -> tuple[Watch, Action]:
    clean = watch.clean + 1
    strikes = 0 if clean >= CLEAN_UNTIL_FORGIVEN else watch.strikes
    action = Action.CONTINUE if watch.is_stopped else Action.NONE
    return replace(watch, used_shut_ns=0, is_stopped=False, strikes=strikes, clean=clean), action
