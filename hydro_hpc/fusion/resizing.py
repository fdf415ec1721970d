"""Another fusion count: which slot of a bundle becomes which, in everything that has slots."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.to_train import to_train

if TYPE_CHECKING:
    from hydro_hpc.fusion.bundle import Bundle
    from hydro_hpc.fusion.state import StackedState


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
    """Something that has slots beside a bundle."""

    @property
    def bundle(self) -> Bundle:
        """The one whose slots it has."""
        ...

    def refuse_left_behind(self) -> None:
        """FusionError if the bundle was resized without it."""
        ...

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
    check_parts(bundle, parts)
    bundle.state.refuse_thawed()
    active, state = bundle.active, bundle.state
    new = plan(active, state.failures, slots)
    before = [(one, dict(vars(one))) for one in (bundle, *parts)]
    try:
        with to_train():
            bundle.take_slots(new)
            for part in parts:
                part.take_slots(new)
    except BaseException:
        for one, attributes in before:
            vars(one).clear()
            vars(one).update(attributes)
        state.take_back()
        raise
    for model in bundle.state.slot_models:  # only now: after a failure backward's are still there
        for parameter in model.parameters():
            parameter.grad = None
    return new.moved(active)


def check_parts(bundle: Bundle, parts: Sequence[Resizable]) -> None:
    """FusionError unless all these have the slots that the bundle has, each given once."""
    for number, part in enumerate(parts):
        kind = type(part).__name__
        if not hasattr(part, "bundle"):
            raise FusionError(
                f"a {kind} has no slots of a bundle: give what hydro_hpc.optim has made for it"
            )
        if part.bundle is not bundle:
            raise FusionError(f"this {kind} is of another bundle: give the one made for this one")
        if not hasattr(part, "__dict__"):
            raise FusionError(
                f"a {kind} keeps its attributes in __slots__, where they could not be put back "
                "if memory did not suffice: make it a class without __slots__"
            )
        if any(part is other for other in parts[:number]):
            raise FusionError(f"the same {kind} was given twice: give it once")
        part.refuse_left_behind()


def refuse_left_behind(part: Resizable, *, state: StackedState) -> None:
    """FusionError if the bundle has been resized without one of its parts, which has the slots of
    this state.
    """
    if state is not part.bundle.state:
        raise FusionError(
            f"the bundle was resized without its {type(part).__name__}: give bundle.grow and "
            "bundle.shrink all that has slots, the optimizer before what goes with it"
        )
