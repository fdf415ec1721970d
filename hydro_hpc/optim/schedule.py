"""Any of torch's learning rate schedulers, one per slot."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import resizing
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.fusion.to_train import to_train
from hydro_hpc.optim.arguments import require_slot
from hydro_hpc.optim.hyperparameters import PerSlot, over_slots
from hydro_hpc.optim.optimizer import SlotOptimizer, require_slot_optimizer

MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]


class SlotSchedule:
    """Runs torch's own scheduler in every slot: `make` is given a torch optimizer with the slot's
    settings and groups, and what the scheduler does to them (`lr`, `momentum`, `betas`) is done to
    the slot. `make` is one for all slots or one per slot.

    A slot's part is made from the settings that the slot has then, so put a new trial's into the
    optimizer first (`reset_slot`, `load_slot_state`), then here.
    """

    @to_train()
    def __init__(
        self, optimizer: SlotOptimizer, make: MakeScheduler | Sequence[MakeScheduler]
    ) -> None:
        require_slot_optimizer(optimizer, type(self).__name__)
        self.optimizer = optimizer
        self._state = self.bundle.state  # whose slots it has
        slots = optimizer.bundle.slots
        self._make = list(make) if isinstance(make, Sequence) else [make] * slots
        if len(self._make) != slots:
            raise ValueError(f"{len(self._make)} schedules were given for {slots} slots")
        self._starts = optimizer.settings()  # of each slot's schedule: `make` may have read them
        self._twins = [optimizer.torch_twin(slot) for slot in range(slots)]
        for slot in range(slots):
            self._show(slot, self._starts[slot])
        self._schedulers = [self._started(slot) for slot in range(slots)]
        self._tell(range(slots))

    @property
    def bundle(self) -> Bundle:
        """The optimizer's."""
        return self.optimizer.bundle

    def step(self, metrics: PerSlot | None = None, *, slots: Collection[int] | None = None) -> None:
        """One step of the schedules of these slots, or of all active ones.

        `metrics` is what ReduceLROnPlateau reads, one number per slot; other schedules read none.
        FusionError after all have been called if some raised: it names their slots, whose settings
        are as before; the other slots have moved on.
        """
        self.refuse_left_behind()
        active = self.bundle.active
        stepping = [slot for slot in range(len(active)) if active[slot]] if slots is None else slots
        values = None if metrics is None else over_slots("metrics", metrics, len(active)).tolist()
        if values is None:
            for slot in stepping:
                if isinstance(self._schedulers[slot], ReduceLROnPlateau):
                    raise ValueError(f"slot {slot} has a ReduceLROnPlateau: step needs metrics")
        for slot in stepping:
            require_slot(self.bundle, slot)
        settings = self.optimizer.settings()
        moved: list[int] = []
        raised: dict[int, Exception] = {}
        try:
            for slot in stepping:
                self._show(slot, settings[slot])
                try:
                    self._step_slot(slot, None if values is None else values[slot])
                except Exception as error:  # whatever a user's schedule raises is its slot's alone
                    raised[slot] = error
                else:
                    moved.append(slot)
        finally:
            self._tell(moved)
        for slot, cause in raised.items():
            which = ", ".join(map(str, raised))
            raise FusionError(
                f"the schedule of slot {which} raised {type(cause).__name__}: {cause}; the other "
                f"slots have moved on: make slot {slot} idle or give it another schedule, "
                f"reset_slot({slot}, make)"
            ) from cause

    def _step_slot(self, slot: int, metric: float | None) -> None:
        scheduler = self._schedulers[slot]
        if isinstance(scheduler, ReduceLROnPlateau) and metric is not None:
            scheduler.step(metric)
        else:
            scheduler.step()

    def reset_slot(self, slot: int, make: MakeScheduler | None = None) -> None:
        """The slot's schedule from its beginning, or another one."""
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        self._restart(slot, make, self.optimizer.settings()[slot])
        self._tell([slot])

    def slot_state(self, slot: int) -> dict[str, Any]:
        """What the slot's scheduler has as `state_dict()`."""
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        state: dict[str, Any] = copy.deepcopy(self._schedulers[slot].state_dict())
        return state

    def load_slot_state(
        self,
        slot: int,
        state: Mapping[str, Any],
        make: MakeScheduler | None = None,
        *,
        kind: str | None = None,
        start: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Goes on from a scheduler's `state_dict()`; the slot's settings stay as they are. `kind`
        is the scheduler's class, ValueError if another is made. `make` is shown the settings
        `start` of each group, or those that the slot's schedule began with.
        """
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        now = self.optimizer.settings()[slot]
        self._restart(slot, make, self._starts[slot] if start is None else start)
        made = type(self._schedulers[slot]).__name__
        if kind not in (None, made):
            raise ValueError(
                f"the trial's schedule is a {kind} and slot {slot} makes a {made}: call "
                "reset_slot(slot, make) with a function that makes the trial's before"
            )
        self._schedulers[slot].load_state_dict(copy.deepcopy(dict(state)))
        self._show(slot, now)

    def parked_slot(self, slot: int) -> dict[str, Any]:
        """What the bundle's `park` keeps; `make` goes along."""
        kind = type(self._schedulers[slot]).__name__
        return {
            "state": self.slot_state(slot),
            "make": self._make[slot],
            "kind": kind,
            "start": copy.deepcopy(self._starts[slot]),
        }

    def take_slots(self, new: NewSlots) -> None:
        """Called by the bundle's `grow` and `shrink`."""
        self.optimizer.refuse_left_behind()
        self._state = self.bundle.state
        self._make = [self._make[slot] for slot in new.sources]
        self._starts = [self._starts[slot] for slot in new.sources]
        self._twins = [self._twins[slot] for slot in new.sources]
        self._schedulers = [self._schedulers[slot] for slot in new.sources]
        settings = self.optimizer.settings()
        for slot in new.empty:
            self._restart(slot, None, settings[slot])
        self._tell(new.empty)

    def refuse_left_behind(self) -> None:
        """FusionError if the bundle was resized without this schedule."""
        resizing.refuse_left_behind(self, state=self._state)

    @to_train()
    def _restart(
        self, slot: int, make: MakeScheduler | None, start: Sequence[Mapping[str, Any]]
    ) -> None:
        if make is not None:
            self._make[slot] = make
        self._twins[slot] = self.optimizer.torch_twin(slot)
        for group, own in zip(self._twins[slot].param_groups, start, strict=True):
            group.update(own)
        self._starts[slot] = [dict(own) for own in start]
        self._schedulers[slot] = self._started(slot)

    def _started(self, slot: int) -> LRScheduler:
        make = self._make[slot]
        if not callable(make):
            kind = type(make).__name__  # type: ignore[unreachable]
            raise ValueError(f"slot {slot} was given a {kind}: give a function that makes one")
        scheduler = make(self._twins[slot])
        if not callable(getattr(scheduler, "step", None)):
            kind = type(scheduler).__name__
            raise ValueError(f"make gave slot {slot} a {kind}: it must return a scheduler")
        self._twins[slot].step()  # without gradients: a scheduler warns if there was none before it
        return scheduler

    def _show(self, slot: int, settings: Sequence[Mapping[str, Any]]) -> None:
        """Gives the slot's scheduler the settings that the slot has, and what schedulers keep."""
        notes = self.optimizer.notes(slot)
        for group, own, kept in zip(self._twins[slot].param_groups, settings, notes, strict=True):
            group.update(own)
            group.update(kept)

    def _tell(self, slots: Iterable[int]) -> None:
        """Gives these slots the settings that their schedulers have made."""
        settings = self.optimizer.settings()
        changes = []
        for slot in slots:
            self.optimizer.take_notes(slot, self._twins[slot].param_groups)
            for number, group in enumerate(self._twins[slot].param_groups):
                own = settings[slot][number]
                if changed := {name: group[name] for name in own if group[name] != own[name]}:
                    changes.append((slot, number, changed))
        if changes:
            self.optimizer.follow(changes)
