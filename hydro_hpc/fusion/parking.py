"""A trial taken out of its bundle into host memory, to go on later as if it had never left."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.resizing import Resizable, check_parts

if TYPE_CHECKING:
    from hydro_hpc.fusion.bundle import Bundle


class SlotPart(Resizable, Protocol):
    """What keeps something per slot beside the bundle: an optimizer and what goes with it."""

    def parked_slot(self, slot: int) -> Mapping[str, Any]:
        """What `load_slot_state` takes, by name, for the slot's trial to go on exactly so."""
        ...

    @property
    def load_slot_state(self) -> Callable[..., None]:
        """Takes a slot and what `parked_slot` gave."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedPart:
    """A trial's part of an optimizer, say: the class's name and what its `load_slot_state` takes.

    `arguments["state"]` is in torch's format. Pickled without functions that cannot be, such as a
    lambda that makes a schedule: the slot's own takes its place, as torch has it with `LambdaLR`.
    """

    kind: str
    arguments: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {n: x for n, x in self.arguments.items() if not callable(x) or _can_be_pickled(x)}
        return _part, (self.kind, kept)

    def __deepcopy__(self, memo: dict[int, Any]) -> ParkedPart:
        return _part(self.kind, copy.deepcopy(dict(self.arguments), memo))


def _part(kind: str, arguments: Mapping[str, Any]) -> ParkedPart:
    return ParkedPart(kind=kind, arguments=arguments)


def _can_be_pickled(function: Callable[..., Any]) -> bool:
    try:
        pickle.dumps(function)
    except Exception:  # of many kinds, by what it is and closes over
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedTrial:
    """A trial between two steps, in host memory: `model` is of the user's class, `seed` and `step`
    are those of its random stream. It can be brought back more than once.
    """

    model: nn.Module
    seed: int
    step: int
    parts: tuple[ParkedPart, ...] = ()

    def on(self, device: torch.device) -> nn.Module:
        """A copy of the model there."""
        return own_copy(self.model, "parked trial").to(device)


def park(bundle: Bundle, slot: int, parts: Sequence[SlotPart]) -> ParkedTrial:
    """The slot's trial, which leaves it."""
    if not bundle.active[slot]:
        raise FusionError(f"slot {slot} is idle: it has no trial to park")
    check_parts(bundle, parts)
    parked = ParkedTrial(
        model=bundle.unbind(slot).cpu(),
        seed=bundle.streams.seeds[slot],
        step=bundle.streams.steps[slot],
        parts=tuple(_parked(part, slot) for part in parts),
    )
    bundle.idle(slot)
    return parked


def unpark(bundle: Bundle, slot: int, parked: ParkedTrial, parts: Sequence[SlotPart]) -> None:
    """The trial takes the slot; if its parts cannot, the slot is idle again."""
    if bundle.active[slot]:
        raise FusionError(f"slot {slot} has a trial: park it, or make it idle, first")
    check_parts(bundle, parts)
    _require_same(parked.parts, parts)
    device = next(bundle.state.slot_models[slot].parameters()).device
    bundle.replace(slot, parked.on(device), seed=parked.seed, step=parked.step)
    try:
        for part, own in zip(parts, parked.parts, strict=True):
            part.load_slot_state(slot, **own.arguments)
    except Exception:
        bundle.idle(slot)
        raise


def _parked(part: SlotPart, slot: int) -> ParkedPart:
    arguments = pytree.tree_map_only(Tensor, lambda x: x.cpu(), dict(part.parked_slot(slot)))
    return ParkedPart(kind=type(part).__name__, arguments=arguments)


def _require_same(parked: Sequence[ParkedPart], parts: Sequence[SlotPart]) -> None:
    """FusionError unless a trial comes back to what it was parked with."""
    before, now = [part.kind for part in parked], [type(part).__name__ for part in parts]
    if before != now:
        raise FusionError(
            f"the trial was parked with {_listed(before)} and cannot come back with "
            f"{_listed(now)}: give unpark what park was given, in the same order"
        )


def _listed(kinds: Sequence[str]) -> str:
    return ", ".join(kinds) or "the bundle alone"
