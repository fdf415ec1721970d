"""Loss scaling for half precision, one scale per slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import resizing
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.fusion.to_train import to_train
from hydro_hpc.optim.arguments import require_slot
from hydro_hpc.optim.hyperparameters import PerSlot, check_range, over_slots
from hydro_hpc.optim.leaf_gradients import LeafGradients, leaf_gradients
from hydro_hpc.optim.optimizer import SlotOptimizer, require_slot_optimizer

RANGES = {
    "scale": (0.0, float("inf")),
    "growth_factor": (1.0, float("inf")),
    "backoff_factor": (0.0, 1.0),
    "growth_interval": (1.0, float("inf")),
}


class Stage(Enum):
    """What was last done since `update`."""

    READY = "update()"
    UNSCALED = "unscale_()"
    STEPPED = "step()"


class SlotGradScaler:
    """Does in every slot what `torch.amp.GradScaler` does: a gradient that is no number or
    infinite skips the step of its own slot and lowers that slot's scale only.

        scaler.scale(losses).sum().backward(); scaler.step(); scaler.update()

    Each setting is one number or one per slot. A skipped step counts as one for the trial's random
    stream: the next masks are others.
    """

    @to_train()
    def __init__(
        self,
        optimizer: SlotOptimizer,
        *,
        init_scale: PerSlot = 2.0**16,
        growth_factor: PerSlot = 2.0,
        backoff_factor: PerSlot = 0.5,
        growth_interval: PerSlot = 2000,
    ) -> None:
        require_slot_optimizer(optimizer, type(self).__name__)
        self.optimizer = optimizer
        self._state = self.bundle.state  # whose slots it has
        self.between: Callable[[], None] = lambda: None  # called where unscaling may pause
        given = {
            "scale": init_scale,
            "growth_factor": growth_factor,
            "backoff_factor": backoff_factor,
            "growth_interval": growth_interval,
        }
        slots = self.bundle.slots
        self._settings = {name: over_slots(name, value, slots) for name, value in given.items()}
        check_range(self._settings, RANGES)
        self._scale_F = self._settings["scale"].float()
        self._steps_since_change = torch.zeros(slots, dtype=torch.int64)
        self._is_infinite = torch.zeros(slots, dtype=torch.bool)
        self._stage = Stage.READY

    @property
    def bundle(self) -> Bundle:
        """The optimizer's."""
        return self.optimizer.bundle

    @property
    def scales(self) -> Tensor:
        """[slots] float32: the present scales."""
        return self._scale_F.clone()

    @property
    def is_skipped(self) -> list[bool]:
        """Which slots' gradients were found infinite or no number since `update`."""
        found: list[bool] = self._is_infinite.tolist()
        return found

    def scale(self, losses: Tensor) -> Tensor:
        """[slots, ...] losses or other outputs, each slot's times its scale."""
        self.refuse_left_behind()
        if losses.ndim == 0 or losses.size(0) != len(self._scale_F):
            raise FusionError(f"{list(losses.shape)} is not [{len(self._scale_F)} slots, ...]")
        factors_F = self._scale_F.to(losses.device)
        if losses.ndim == 1:  # one number per model: as precise as the scale
            return losses * factors_F
        scaled = losses * factors_F.view(-1, *[1] * (losses.ndim - 1))
        return scaled.to(losses.dtype)

    @torch.no_grad()
    def unscale_(self) -> None:
        """Takes the scale out of the gradients, so that they can be clipped; else `step` does it.
        Once between two `update()`s."""
        self.refuse_left_behind()
        if self._stage is not Stage.READY:
            raise FusionError(f"unscale_() after {self._stage.value}: call update() in between")
        bundle = self.bundle
        found = leaf_gradients(bundle, self.between)
        if torch.float16 in {block.values_FP.dtype for block in bundle.state.blocks}:
            raise FusionError("parameters are float16: keep them in float32, under autocast")
        self._is_infinite = _infinite(found)
        found.multiply_(self._scale_F.double().reciprocal().float())
        self._stage = Stage.UNSCALED

    def step(self) -> None:
        """The optimizer's step, in the slots whose gradients are finite."""
        self.refuse_left_behind()
        if self._stage is Stage.STEPPED:
            raise FusionError("step() after step(): call update() in between")
        if self._stage is Stage.READY:
            self.unscale_()
        bundle, skipped = self.bundle, self.is_skipped
        held = [on and skip for on, skip in zip(bundle.active, skipped, strict=True)]
        if not any(held):
            self.optimizer.step()
        elif held != bundle.active:
            with bundle.only([slot for slot, skip in enumerate(skipped) if not skip]):
                self.optimizer.step()
        bundle.streams.advance(held)
        self._stage = Stage.STEPPED

    def update(self, new_scale: PerSlot | None = None) -> None:
        """Lowers the scale of slots that were skipped and, from time to time, raises the others';
        or sets it."""
        self.refuse_left_behind()
        slots = self.bundle.slots
        if new_scale is not None:
            scale = over_slots("scale", new_scale, slots)
            check_range({"scale": scale}, {"scale": RANGES["scale"]})
            self._scale_F = scale.float()
        elif self._stage is Stage.READY:
            raise FusionError("update() before unscale_() or step(): no gradients were looked at")
        else:
            self._adapt(torch.tensor(self.bundle.active))
        self._is_infinite = torch.zeros(slots, dtype=torch.bool)
        self._stage = Stage.READY

    def _adapt(self, is_active: Tensor) -> None:
        scale_F, settings, steps = self._scale_F.double(), self._settings, self._steps_since_change
        grown_F = (scale_F * settings["growth_factor"]).float()
        lowered_F = (scale_F * settings["backoff_factor"]).float()
        is_due = steps + 1 >= settings["growth_interval"]
        higher_F = torch.where(is_due & grown_F.isfinite(), grown_F, self._scale_F)
        next_F = torch.where(self._is_infinite, lowered_F, higher_F)
        self._scale_F = torch.where(is_active, next_F, self._scale_F)
        next_steps = torch.where(is_due | self._is_infinite, 0, steps + 1)
        self._steps_since_change = torch.where(is_active, next_steps, steps)

    def reset_slot(self, slot: int, init_scale: float | None = None) -> None:
        """The slot's scale as at first, or this one."""
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        settings = {name: values[slot].item() for name, values in self._settings.items()}
        if init_scale is not None:
            settings["scale"] = init_scale
        self._set(slot, settings, steps=0)

    def slot_state(self, slot: int) -> dict[str, Any]:
        """What torch's GradScaler of the slot would have as `state_dict()`."""
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        settings = {name: values[slot].item() for name, values in self._settings.items()}
        return {
            **settings,
            "scale": self._scale_F[slot].item(),
            "growth_interval": int(settings["growth_interval"]),
            "_growth_tracker": int(self._steps_since_change[slot]),
        }

    def load_slot_state(self, slot: int, state: Mapping[str, Any]) -> None:
        """Takes the `state_dict()` of a GradScaler, or `slot_state`'s, into the slot."""
        require_slot(self.bundle, slot)
        wanted = (*self._settings, "_growth_tracker")
        if lacking := [name for name in wanted if name not in state]:
            raise ValueError(f"this is no state_dict() of a GradScaler: it has no {lacking[0]}")
        settings = {name: float(state[name]) for name in self._settings}
        self._set(slot, settings, steps=int(state["_growth_tracker"]))

    def parked_slot(self, slot: int) -> dict[str, Any]:
        """What the bundle's `park` keeps."""
        return {"state": self.slot_state(slot)}

    def take_slots(self, new: NewSlots) -> None:
        """Called by the bundle's `grow` and `shrink`."""
        self._state = self.bundle.state
        sources = list(new.sources)
        self._settings = {name: values[sources] for name, values in self._settings.items()}
        self._scale_F = self._scale_F[sources]
        self._steps_since_change = self._steps_since_change[sources]
        self._is_infinite = self._is_infinite[sources]
        for slot in new.empty:
            self.reset_slot(slot)

    def refuse_left_behind(self) -> None:
        """FusionError if the bundle was resized without this scaler."""
        resizing.refuse_left_behind(self, state=self._state)

    @to_train()
    def _set(self, slot: int, settings: Mapping[str, float], *, steps: int) -> None:
        self.refuse_left_behind()
        check_range({name: torch.tensor([x]) for name, x in settings.items()}, RANGES)
        for name, value in settings.items():
            if name != "scale":  # that is where the slot's next trial begins
                self._settings[name][slot] = value
        self._scale_F[slot] = settings["scale"]
        self._steps_since_change[slot] = steps
        self._is_infinite[slot] = False


def _infinite(found: LeafGradients) -> Tensor:
    """[slots] on the CPU: who has a gradient that is infinite or no number."""
    is_infinite = torch.zeros(len(found.rows), dtype=torch.bool)
    for grad_FP in found.of_slots():
        is_infinite |= ~grad_FP.isfinite().all(dim=1).cpu()
    for slot, row in found.of_one_slot():
        is_infinite[slot] |= not all(bool(grad.isfinite().all()) for grad in row)
    return is_infinite
