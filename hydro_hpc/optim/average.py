"""Exponential moving averages of parameters, one per slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hydro_hpc.fusion import resizing
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.fusion.state import view_columns
from hydro_hpc.fusion.to_train import to_train
from hydro_hpc.optim.arguments import require_bundle, require_slot
from hydro_hpc.optim.hyperparameters import PerSlot, over_slots

PREFIX = "module."  # of the model's names in the state of torch's AveragedModel


class SlotAverage:
    """Equals in every slot `AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))` of
    `torch.optim.swa_utils`: parameters are averaged, buffers are those of the last update. `decay`
    is one number or one per slot.
    """

    @to_train()
    def __init__(self, bundle: Bundle, decay: PerSlot = 0.999) -> None:
        require_bundle(bundle, type(self).__name__)
        self.bundle = bundle
        self._state = bundle.state  # whose slots it has
        self.between: Callable[[], None] = lambda: None  # called where an update may pause
        self._decay = _checked(over_slots("decay", decay, bundle.slots))
        self._counts = [0] * bundle.slots
        self._averages = [block.values_FP.clone() for block in bundle.state.blocks]
        self._buffers = [self._present_buffers(slot) for slot in range(bundle.slots)]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the active slots' present parameters, after an optimizer step."""
        self.refuse_left_behind()
        decays = self._decay.tolist()
        for slot, is_active in enumerate(self.bundle.active):
            if is_active:
                self.between()
                for average_FP, block in zip(self._averages, self.bundle.state.blocks, strict=True):
                    if self._counts[slot]:
                        average_FP[slot].lerp_(block.values_FP[slot], 1 - decays[slot])
                    else:
                        average_FP[slot] = block.values_FP[slot]
                self._buffers[slot] = self._present_buffers(slot)
                self._counts[slot] += 1

    @to_train()
    def unbind(self, slot: int) -> nn.Module:
        """The slot's averaged model: the user's class, with storage of its own."""
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        model = self.bundle.unbind(slot)
        parameters = dict(model.named_parameters())
        for average_FP, block in zip(self._averages, self.bundle.state.blocks, strict=True):
            for column in block.columns:
                parameters[column.name].copy_(view_columns(average_FP, column)[slot])
        for name, buffer in model.named_buffers():
            if name in self._buffers[slot]:  # else made by a forward since
                buffer.data = self._buffers[slot][name].clone()
        return model

    def reset_slot(self, slot: int, decay: float | None = None) -> None:
        """Another trial is in the slot: its average begins with its present parameters."""
        self._set_decay(slot, decay)
        self._take(slot, self.bundle.unbind(slot), count=0)

    def slot_state(self, slot: int) -> dict[str, Any]:
        """The slot's `state_dict()` of torch's AveragedModel."""
        model = self.unbind(slot).state_dict()
        own = {PREFIX + name: value for name, value in model.items()}
        return {"n_averaged": torch.tensor(self._counts[slot]), **own}

    def load_slot_state(
        self, slot: int, state: Mapping[str, Any], decay: float | None = None
    ) -> None:
        """Takes the `state_dict()` of an AveragedModel, or `slot_state`'s, into the slot."""
        if "n_averaged" not in state:
            raise ValueError(
                "this is no state_dict() of an AveragedModel: it has no n_averaged; give what "
                "slot_state gave or torch's AveragedModel has"
            )
        self._set_decay(slot, decay)
        model = self.bundle.unbind(slot)
        own = {n.removeprefix(PREFIX): v for n, v in state.items() if n.startswith(PREFIX)}
        model.load_state_dict(own, strict=True)
        self._take(slot, model, count=int(state["n_averaged"]))

    def parked_slot(self, slot: int) -> dict[str, Any]:
        """What the bundle's `park` keeps."""
        return {"state": self.slot_state(slot), "decay": self._decay[slot].item()}

    def take_slots(self, new: NewSlots) -> None:
        """Called by the bundle's `grow` and `shrink`."""
        self._state = self.bundle.state
        sources = list(new.sources)
        self._decay = self._decay[sources]
        self._counts = [self._counts[slot] for slot in sources]
        self._averages = [average_FP[sources] for average_FP in self._averages]
        self._buffers = [self._buffers[slot] for slot in sources]
        for slot in new.empty:
            self.reset_slot(slot)

    def refuse_left_behind(self) -> None:
        """FusionError if the bundle was resized without this average."""
        resizing.refuse_left_behind(self, state=self._state)

    @to_train()
    def _set_decay(self, slot: int, decay: float | None) -> None:
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        if decay is not None:
            decays = self._decay.clone()
            decays[slot] = decay
            self._decay = _checked(decays)

    @to_train()
    def _take(self, slot: int, model: nn.Module, *, count: int) -> None:
        parameters = dict(model.named_parameters())
        for average_FP, block in zip(self._averages, self.bundle.state.blocks, strict=True):
            for column in block.columns:
                view_columns(average_FP, column)[slot] = parameters[column.name]
        self._buffers[slot] = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._counts[slot] = count

    def _present_buffers(self, slot: int) -> dict[str, Tensor]:
        model = self.bundle.state.slot_models[slot]
        return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def _checked(decay: Tensor) -> Tensor:
    for slot, value in enumerate(decay.tolist()):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"decay of slot {slot} is {value}: it must be in [0.0, 1.0]")
    return decay
