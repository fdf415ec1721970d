"""What all optimizers of bundles do: step the present, keep the absent, speak torch's format.

F slots, P columns of a block (all parameters of one dtype), N parameters of it.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.gradients import BlockGradient
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.fusion.state import view_columns
from hydro_hpc.fusion.to_train import to_train
from hydro_hpc.optim.arguments import require_slot
from hydro_hpc.optim.groups import ParameterGroup
from hydro_hpc.optim.moments import Moments
from hydro_hpc.optim.scales import from_torch, to_torch
from hydro_hpc.optim.settings import Change, SlotSettings
from hydro_hpc.optim.stored import by_name, require_shapes
from hydro_hpc.surrogate.rules import Rules


class SlotOptimizer(SlotSettings):
    """Base of SGD, Adam and the others. A step changes nothing in idle slots and nothing of
    parameters without a gradient; nothing is ever reduced over slots, so a NaN stays in its slot.
    """

    TENSORS: ClassVar[tuple[str, ...]] = ()  # names of the state tensors, as in torch
    OPTIONAL: ClassVar[Mapping[str, str]] = {}  # of those that a setting asks for -> the setting

    @to_train()
    def __init__(
        self,
        bundle: Bundle,
        settings: Mapping[str, Any],
        groups: Sequence[ParameterGroup],
        rules: Rules | None = None,
    ) -> None:
        self._moments: list[Moments] = []
        super().__init__(bundle, settings, groups, rules)
        self.between: Callable[[], None] = lambda: None  # called where a step may pause
        number_of = {name: g for g, group in enumerate(self._groups) for name in group.names}
        self._moments = [Moments(block, number_of) for block in bundle.state.blocks]
        self._adopt(self._given)
        for slot in range(bundle.slots):
            self._begin(slot)

    @abstractmethod
    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        """One step of a whole block, in place; `grad_FP` may be overwritten."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients of the bundle, whatever `set_to_none` says."""
        self.bundle.zero_grad(set_to_none)

    def state_dict(self, *args: Any) -> Any:
        """Refused: the state is saved trial by trial."""
        del args
        kind = type(self).__name__
        raise FusionError(
            f"{kind} has no state_dict: save each slot_state(slot), load by load_slot_state"
        )

    load_state_dict = state_dict

    @torch.no_grad()
    def step(self) -> None:
        """One step of every active slot with the gradients that backward left."""
        self.refuse_left_behind()
        gradients = self.bundle.gradients(self.between)
        for moments, gradient in zip(self._moments, gradients, strict=True):
            self.between()
            self._step_block(moments, gradient)
        self.bundle.stepped()

    @to_train()
    def reset_slot(self, slot: int, *, group: int | None = None, **settings: Any) -> None:
        """The slot's optimizer state as new, with these hyperparameters, given as to `set`, and the
        rest as the optimizer was made with."""
        self._begin_with(slot, self._changes(slot, group, settings))

    def _begin_with(self, slot: int, changes: list[Change]) -> None:
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        made = {name: values.clone() for name, values in self._given.items()}
        for name, values in made.items():
            values[slot] = self._made[name][slot]
        hyper, given = self._changed(made, changes)
        self._check(hyper, given)
        self._adopt(hyper)
        self._begin(slot)

    def slot_state(self, slot: int) -> dict[str, Any]:
        """The slot's state as `state_dict()` of a torch optimizer over `model.parameters()`, or
        over the same groups of them."""
        self.refuse_left_behind()
        require_slot(self.bundle, slot)
        own = dict(self._frozen_states(slot))
        for moments in self._moments:
            for number, column in enumerate(moments.block.columns):
                views = {n: view_columns(x, column)[slot] for n, x in moments.tensors.items()}
                tensors = {
                    name: view.clone()
                    for name, view in views.items()
                    if self._has(name, slot, moments.groups[number], view)
                }
                own[column.name] = self._to_torch(int(moments.steps_FN[slot, number]), tensors)
        groups = self.torch_twin(slot).state_dict()["param_groups"]
        names: list[str] = []
        for stored, group, notes in zip(groups, self._groups, self.notes(slot), strict=True):
            stored.update(copy.deepcopy(notes))
            stored["params"] = list(range(len(names), len(names) + len(group.names)))
            names += group.names
        state = {place: own[name] for place, name in enumerate(names) if own.get(name)}
        scaled = [to_torch(*each) for each in zip(groups, self._scales, strict=True)]
        return {"state": state, "param_groups": scaled}

    @to_train()
    def load_slot_state(self, slot: int, state: Mapping[str, Any]) -> None:
        """Takes a torch optimizer's `state_dict()`, or `slot_state`'s, into the slot."""
        require_slot(self.bundle, slot)
        names = [group.names for group in self._groups]
        kept = by_name(state, names, settings=self._names, who=type(self).__name__)
        every = (*self.TENSORS, *self.OPTIONAL)
        columns = [column for moments in self._moments for column in moments.block.columns]
        require_shapes(kept, {c.name: c.shape for c in columns}, every)
        pairs = zip(state["param_groups"], self._scales, strict=True)
        stored = [from_torch(*pair) for pair in pairs]
        settings = [{name: each[name] for name in self._names} for each in stored]
        self.follow([(slot, group, each) for group, each in enumerate(settings)])
        self._begin(slot)
        self.take_notes(slot, stored)
        for moments in self._moments:
            for number, column in enumerate(moments.block.columns):
                if found := kept.get(column.name):
                    moments.steps_FN[slot, number] = int(found.get("step", 1))
                    known = [name for name in every if found.get(name) is not None]
                    moments.keep(known)
                    for name in known:
                        view_columns(moments.tensors[name], column)[slot].copy_(found[name])
            moments.count_even()

    def parked_slot(self, slot: int) -> dict[str, Any]:
        """What the bundle's `park` keeps."""
        return {"state": self.slot_state(slot)}

    def take_slots(self, new: NewSlots) -> None:
        """Called by the bundle's `grow` and `shrink`."""
        self._state = self.bundle.state
        sources, blocks = list(new.sources), self.bundle.state.blocks
        self._moments = [
            own.of_slots(sources, block) for own, block in zip(self._moments, blocks, strict=True)
        ]
        self._made = {name: values[sources] for name, values in self._made.items()}
        self._notes = [self.notes(slot) for slot in sources]
        hyper = {name: values[sources] for name, values in self._given.items()}
        for name, values in hyper.items():
            values[list(new.empty)] = self._made[name][list(new.empty)]
        self._adopt(hyper)
        for slot in new.empty:
            self._begin(slot)

    def _has(self, tensor: str, slot: int, group: int, values: Tensor) -> bool:
        """Says whether torch keeps a tensor of this name and these values under the slot's
        settings."""
        del values
        setting = self.OPTIONAL.get(tensor)
        return setting is None or bool(self._hyper[setting][slot, group])

    def _to_torch(self, steps: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """One parameter's state as torch keeps it, empty if it keeps none."""
        return {"step": torch.tensor(float(steps)), **tensors} if steps else {}

    def _frozen_states(self, slot: int) -> Iterable[tuple[str, dict[str, Any]]]:
        """What torch keeps of frozen parameters, by name."""
        del slot
        return ()

    def _adopt(self, hyper: dict[str, Tensor]) -> None:
        super()._adopt(hyper)
        asked_for = [name for name, setting in self.OPTIONAL.items() if setting in self._used]
        for moments in self._moments:
            moments.constants.clear()
            moments.keep((*self.TENSORS, *asked_for))

    def _begin(self, slot: int) -> None:
        """The slot's state is as before its first step."""
        self._notes[slot] = self._no_notes()
        for moments in self._moments:
            moments.steps_FN[slot] = 0
            moments.count_even()
            for tensor in moments.tensors.values():
                tensor[slot] = 0

    def _advance(self, moments: Moments, grad_FP: Tensor) -> None:
        """One step of a whole block with its gradient, towards less or, if asked, more."""
        if grad_FP.is_complex():
            real = moments.as_real()
            self._advance(real, torch.view_as_real(grad_FP).flatten(1))
            moments.steps_FN, moments.is_even = real.steps_FN, real.is_even
            return
        if grad_FP.element_size() == 2:  # bfloat16, float16
            wide = moments.widened()
            self._advance(wide, grad_FP.float())
            moments.round_from(wide)
            return
        moments.steps_FN += 1
        if "maximize" in self._used:
            grad_FP.mul_(moments.constant("sign", lambda: 1.0 - 2.0 * self._hyper["maximize"]))
            self.between()
        self._update(moments, grad_FP)

    def _add_decay(self, moments: Moments, grad_FP: Tensor) -> None:
        """Weight decay as part of the gradient."""
        if "weight_decay" in self._used:
            decay = moments.constant("decay", lambda: self._hyper["weight_decay"])
            grad_FP.addcmul_(moments.block.values_FP, decay)

    def _step_block(self, moments: Moments, gradient: BlockGradient) -> None:
        """One step of the block in active slots, where there is a gradient."""
        stepping_FN = self._stepping(gradient)
        if stepping_FN is None:
            self._advance(moments, gradient.values)
        elif stepping_FN.size(1) == 1:
            self._update_slots(moments, gradient.values, stepping_FN)
        else:
            self._update_where(moments, gradient.values, stepping_FN)

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
        self._advance(moments, grad_FP)
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
        self._advance(moments, grad_FP)
        mask_FP = moments.coefficient(stepping_FN.cpu()).bool()
        for tensor, old in zip(kept, before, strict=True):
            tensor.copy_(torch.where(mask_FP, tensor, old))
        moments.steps_FN = torch.where(stepping_FN.cpu(), moments.steps_FN, steps_FN)
        moments.count_even()


def require_slot_optimizer(given: object, who: str) -> None:
    """FusionError unless it is an optimizer of a bundle."""
    if not isinstance(given, SlotOptimizer):
        kind = type(given).__name__
        raise FusionError(f"{who} was given a {kind}: give it an optimizer of hydro_hpc.optim")
