"""Another fusion count: which slot of a bundle becomes which, in everything that has slots."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from hydro_hpc.errors import FusionError

if TYPE_CHECKING:
    from hydro_hpc.fusion.bundle import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSlots:
    """`sources[new]` is the old slot that the new one continues. The `empty` ones begin as copies
    of theirs, idle.
    """

    sources: tuple[int, ...]
    empty: frozenset[int]

    def moved(self, active: Sequence[bool]) -> dict[int, int]:
        """Old slot -> new slot of every trial."""
        return {
            old: new
            for new, old in enumerate(self.sources)
            if active[old] and new not in self.empty
        }


class Resizable(Protocol):
    """Something that has slots."""

    def take_slots(self, new: NewSlots) -> None:
        """Its slots are these from now on. Binds attributes anew and writes into no old tensor, so
        that it can be undone. For `grow` and `shrink` of the bundle, which come first.
        """
        ...


def plan(active: Sequence[bool], failed: Collection[int], slots: int) -> NewSlots:
    """Trials keep their slots where these stay; the others move to the first that are free. Idle
    slots stay as they are if nobody moves in, but for those whose model raised: these are emptied.

    FusionError if there are more trials than slots.
    """
    trials = [slot for slot, is_active in enumerate(active) if is_active]
    if len(trials) > slots:
        raise FusionError(
            f"{len(trials)} slots have a trial, so the bundle cannot shrink to {slots}: park or "
            f"idle {len(trials) - slots} of them first"
        )
    staying = [slot for slot in range(min(slots, len(active))) if slot not in failed]
    sources = {slot: slot for slot in staying}
    free = (slot for slot in range(slots) if slot >= len(active) or not active[slot])
    for trial in trials:
        if trial >= slots:
            sources[next(free)] = trial
    pattern = trials[0] if trials else 0
    return NewSlots(
        sources=tuple(sources.get(slot, pattern) for slot in range(slots)),
        empty=frozenset(range(slots)) - sources.keys(),
    )


def resize(bundle: Bundle, slots: int, parts: Sequence[Resizable]) -> dict[int, int]:
    """The bundle and its parts have so many slots. Returns old slot -> new slot of every trial.

    If one of them cannot, for want of memory say, all are as before, and its error comes through.
    """
    active, state = bundle.active, bundle.state
    new = plan(active, state.failures, slots)
    before = [(one, dict(vars(one))) for one in (bundle, *parts)]
    try:
        with torch.inference_mode(False), torch.no_grad():  # made in an evaluation, but to train
            for one in (bundle, *parts):
                one.take_slots(new)
    except BaseException:
        for one, attributes in before:
            vars(one).clear()
            vars(one).update(attributes)
        state.take_back()
        raise
    return new.moved(active)


def refuse_left_behind(part: object, *, is_current: bool) -> None:
    """FusionError if the bundle has been resized without one of its parts."""
    if not is_current:
        raise FusionError(
            f"the bundle was resized without its {type(part).__name__}: give bundle.grow and "
            "bundle.shrink all that has slots, the optimizer before what goes with it"
        )
