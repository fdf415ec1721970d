"""What all optimizers of bundles do: step the present, keep the absent, speak torch's format.

F slots, P columns of a block (all parameters of one dtype), N parameters of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.gradients import BlockGradient
from hydro_hpc.fusion.state import Block, view_columns
from hydro_hpc.optim.hyperparameters import check_range, over_slots


class Moments:
    """A block's optimizer state: tensors laid out like the block, and steps per slot and
    parameter (parameters without a gradient do not step)."""

    def __init__(self, block: Block, names: tuple[str, ...]) -> None:
        self.block = block
        self.tensors = {name: torch.zeros_like(block.values_FP) for name in names}
        shape = (block.values_FP.size(0), len(block.columns))
        self.steps_FN = torch.zeros(shape, dtype=torch.int64)
        self.is_even = True  # all parameters of a slot have made the same number of steps
        self.constants: dict[str, Tensor] = {}  # coefficients [F, 1], until a setting changes
        self._widths = torch.tensor([column.stop - column.start for column in block.columns])

    @property
    def steps(self) -> Tensor:
        """[F, 1] steps per slot if they are even, else [F, N]."""
        return self.steps_FN[:, :1] if self.is_even else self.steps_FN

    def coefficient(self, values: Tensor) -> Tensor:
        """[F, 1] or [F, N] numbers as [F, 1] or [F, P], in the block's dtype on its device."""
        if values.size(1) == self.steps_FN.size(1) > 1:
            values = values.repeat_interleave(self._widths, dim=1)
        return values.to(self.block.values_FP)

    def constant(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """[F, 1] from [F] numbers that only a changed setting changes."""
        if name not in self.constants:
            self.constants[name] = self.coefficient(make()[:, None])
        return self.constants[name]

    def count_even(self) -> None:
        """Steps have been set from outside."""
        self.is_even = bool((self.steps_FN == self.steps_FN[:, :1]).all())


class SlotOptimizer(ABC):
    """Base of SGD, Adam and AdamW. A step changes nothing in idle slots and nothing of parameters
    without a gradient; nothing is ever reduced over slots, so a NaN stays in its slot."""

    TENSORS: ClassVar[tuple[str, ...]]  # names of the state tensors, as in torch
    TORCH: ClassVar[type[torch.optim.Optimizer]]
    RANGES: ClassVar[Mapping[str, tuple[float, float]]]

    def __init__(self, bundle: Bundle, settings: Mapping[str, Any]) -> None:
        self.bundle = bundle
        self.between: Callable[[], None] = lambda: None  # called where a step may pause
        self._hyper = self._per_slot(settings, bundle.slots)
        self._check(self._hyper)
        self._moments = [Moments(block, self.TENSORS) for block in bundle.state.blocks]

    @abstractmethod
    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        """One step of a whole block, in place; `grad_FP` may be overwritten."""

    def _per_slot(self, settings: Mapping[str, Any], slots: int) -> dict[str, Tensor]:
        """Hyperparameters [slots] by the name under which `hyper` has them."""
        return {name: over_slots(name, value, slots) for name, value in settings.items()}

    def _torch_settings(self, slot: int) -> dict[str, Any]:
        """One slot's hyperparameters as torch's constructor takes them."""
        return {name: float(values[slot]) for name, values in self._hyper.items()}

    @property
    def hyper(self) -> dict[str, Tensor]:
        """[slots] float64 copies of all hyperparameters by name; `set` changes them."""
        return {name: values.clone() for name, values in self._hyper.items()}

    def zero_grad(self) -> None:
        """Forgets all gradients of the bundle."""
        self.bundle.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """One step of every active slot with the gradients that backward left."""
        gradients = self.bundle.gradients(self.between)
        for moments, gradient in zip(self._moments, gradients, strict=True):
            self.between()
            stepping_FN = self._stepping(gradient)
            if stepping_FN is None:
                moments.steps_FN += 1
                self._update(moments, gradient.values)
            elif stepping_FN.size(1) == 1:
                self._update_slots(moments, gradient.values, stepping_FN)
            else:
                self._update_where(moments, gradient.values, stepping_FN)
        self.bundle.stepped()

    def set(self, slot: int, **settings: Any) -> None:
        """Gives one slot other hyperparameters, such as a schedule's next learning rate.

        ValueError if one is unknown or out of range; then none is changed.
        """
        hyper = self.hyper
        for name, value in self._per_slot(settings, 1).items():
            if name not in hyper:
                raise ValueError(f"{name} is no setting of {type(self).__name__}")
            hyper[name][slot] = value[0]
        self._check(hyper)
        self._hyper = hyper
        for moments in self._moments:
            moments.constants.clear()

    def _check(self, hyper: Mapping[str, Tensor]) -> None:
        """ValueError if a slot's hyperparameters cannot be."""
        check_range(hyper, self.RANGES)

    @torch.no_grad()
    def reset_slot(self, slot: int, **settings: Any) -> None:
        """The slot's optimizer state as new, with these hyperparameters and the rest as before."""
        self.set(slot, **settings)
        for moments in self._moments:
            moments.steps_FN[slot] = 0
            moments.count_even()
            for tensor in moments.tensors.values():
                tensor[slot] = 0

    def slot_state(self, slot: int) -> dict[str, Any]:
        """The slot's state as `state_dict()` of a torch optimizer over `model.parameters()`."""
        places = self._places()
        optimizer = self.TORCH([nn.Parameter(torch.zeros(1))], **self._torch_settings(slot))
        group = optimizer.state_dict()["param_groups"][0]
        group["params"] = list(range(len(places)))
        state = {}
        for moments in self._moments:
            for number, column in enumerate(moments.block.columns):
                steps = int(moments.steps_FN[slot, number])
                own = {
                    name: view_columns(tensor, column)[slot].clone()
                    for name, tensor in moments.tensors.items()
                }
                if steps and (kept := self._to_torch(slot, steps, own)):
                    state[places[column.name]] = kept
        return {"state": dict(sorted(state.items())), "param_groups": [group]}

    @torch.no_grad()
    def load_slot_state(self, slot: int, state: Mapping[str, Any]) -> None:
        """Takes a torch optimizer's `state_dict()`, or `slot_state`'s, into the slot."""
        groups = state["param_groups"]
        places = self._places()
        if len(groups) != 1 or len(groups[0]["params"]) != len(places):
            raise ValueError(f"this state is not of one group with {len(places)} parameters")
        self.reset_slot(slot, **self._from_torch_group(groups[0]))
        for moments in self._moments:
            for number, column in enumerate(moments.block.columns):
                found = state["state"].get(places[column.name])
                if not found:
                    continue
                moments.steps_FN[slot, number] = int(found.get("step", 1))
                for name, tensor in moments.tensors.items():
                    if found.get(name) is not None:
                        view_columns(tensor, column)[slot].copy_(found[name])
            moments.count_even()

    def _to_torch(self, slot: int, steps: int, own: dict[str, Tensor]) -> dict[str, Any]:
        """One parameter's state as torch keeps it."""
        del slot
        return {"step": torch.tensor(float(steps)), **own}

    def _from_torch_group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The settings for `set` that a torch parameter group holds."""
        return {name: group[name] for name in self._hyper}

    def _places(self) -> dict[str, int]:
        """Each parameter's number in `model.parameters()`, frozen ones counted."""
        model = self.bundle.state.slot_models[0]
        return {name: number for number, (name, _) in enumerate(model.named_parameters())}

    def _stepping(self, gradient: BlockGradient) -> Tensor | None:
        """[F, N] or [F, 1]: which parameters step; None if all do."""
        if all(self.bundle.active):
            return gradient.present
        active_F1 = torch.tensor(self.bundle.active, device=gradient.values.device)[:, None]
        return active_F1 if gradient.present is None else active_F1 & gradient.present

    def _update_slots(self, moments: Moments, grad_FP: Tensor, stepping_F1: Tensor) -> None:
        """Steps the whole block, then puts idle slots back, bit for bit: a copy of their rows there
        and back, in pieces, since there are idle slots as long as trials end.
        """
        idle = [slot for slot, steps in enumerate(stepping_F1[:, 0].tolist()) if not steps]
        kept = [moments.block.values_FP, *moments.tensors.values(), moments.steps_FN]
        before = [[tensor[slot].clone() for slot in idle] for tensor in kept]
        self.between()
        moments.steps_FN += 1
        self._update(moments, grad_FP)
        for tensor, rows in zip(kept, before, strict=True):
            self.between()
            for slot, row in zip(idle, rows, strict=True):
                tensor[slot] = row

    def _update_where(self, moments: Moments, grad_FP: Tensor, stepping_FN: Tensor) -> None:
        """Steps the whole block, then puts back what was not to step, bit for bit."""
        kept = [moments.block.values_FP, *moments.tensors.values()]
        before = [tensor.clone() for tensor in kept]
        steps_FN = moments.steps_FN.clone()
        stepping_FN = stepping_FN.expand(steps_FN.shape)
        moments.steps_FN += 1
        self._update(moments, grad_FP)
        mask_FP = moments.coefficient(stepping_FN.cpu()).bool()
        for tensor, old in zip(kept, before, strict=True):
            tensor.copy_(torch.where(mask_FP, tensor, old))
        moments.steps_FN = torch.where(stepping_FN.cpu(), moments.steps_FN, steps_FN)
        moments.count_even()
