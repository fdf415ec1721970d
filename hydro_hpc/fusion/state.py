"""The one stacked state of a bundle: every parameter and buffer of F models, slot dimension first.

Trainable parameters of one dtype lie in one tensor [slots, P] (a `Block`), so that an optimizer is
a handful of operations; parameter `name` is a view [slots, *shape] of some of its columns. F real
model objects (the slot models) have this memory as their parameters and buffers, so executors that
use the stack and executors that use the models work on the same state.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.resizing import NewSlots


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Where one parameter lies in its block: columns `start` to `stop`, as `shape`."""

    name: str
    start: int
    stop: int
    shape: torch.Size


class Block:
    """All trainable parameters of one dtype: `values_FP` [slots, P], `columns` in model order."""

    def __init__(self, models: Sequence[nn.Module], names: Sequence[str]) -> None:
        parameters = [dict(model.named_parameters()) for model in models]
        self.columns: list[Column] = []
        start = 0
        for name in names:
            shape = parameters[0][name].shape
            stop = start + shape.numel()
            self.columns.append(Column(name=name, start=start, stop=stop, shape=shape))
            start = stop
        rows = [torch.cat([p[name].detach().reshape(-1) for name in names]) for p in parameters]
        self.values_FP = torch.stack(rows)
        self._gradient_FP: Tensor | None = None

    def room_for_gradient(self) -> Tensor:
        """[slots, P], always the same: memory that is new in each step takes four times as long to
        write to.
        """
        if self._gradient_FP is None:
            self._gradient_FP = torch.empty_like(self.values_FP)
        return self._gradient_FP

    def view(self, column: Column) -> Tensor:
        """The parameter, [slots, *shape], in the block's memory."""
        return view_columns(self.values_FP, column)


def view_columns(block_FP: Tensor, column: Column) -> Tensor:
    """[slots, *shape]: one parameter's part of any tensor laid out like its block."""
    columns: Tensor = block_FP[:, column.start : column.stop]
    return columns.view(block_FP.size(0), *column.shape)


class StackedState:
    """The stacked state of `models`, which it takes as its slot models: give it copies.

    `stacked` maps each parameter's and buffer's own name to its tensor [slots, *shape]; `owner`
    maps every name, tied ones too, to the name under which it is stacked. An idle slot has
    `active[slot]` False; `failures` has what models raised, by slot. `spared` are slots whose
    inputs may be what a model raises for: while they are idle, nobody is given them.

    A buffer that not all have in one shape, since forward has made it, is in no stack: it is its
    model's own, as those of these names are, and only that model's own forward uses it.
    """

    def __init__(self, models: Sequence[nn.Module], own_buffers: Collection[str] = ()) -> None:
        self.slot_models = list(models)
        self.active = [True] * len(self.slot_models)
        self.failures: dict[int, Exception] = {}
        self.spared: set[int] = set()
        first = self.slot_models[0]
        trainable = {n: p for n, p in first.named_parameters() if p.requires_grad}
        by_dtype: dict[torch.dtype, list[str]] = {}
        for name, parameter in trainable.items():
            by_dtype.setdefault(parameter.dtype, []).append(name)
        self.blocks = [Block(self.slot_models, names) for names in by_dtype.values()]
        self.stacked: dict[str, Tensor] = {
            column.name: block.view(column) for block in self.blocks for column in block.columns
        }
        self.trainable = frozenset(trainable)
        own = [_tensors(model) for model in self.slot_models]
        self._buffers = [
            name
            for name, buffer in first.named_buffers()
            if name not in own_buffers
            and all(name in each and each[name].shape == buffer.shape for each in own)
        ]
        self.frozen = [n for n, p in first.named_parameters() if not p.requires_grad]
        for name in (*self.frozen, *self._buffers):
            self.stacked[name] = torch.stack([tensors[name].detach() for tensors in own])
        owners = _owners(first)
        self.owner = {name: one for name, one in owners.items() if one in self.stacked}
        self._addresses: list[list[int]] = [[] for _ in self.slot_models]
        for slot, model in enumerate(self.slot_models):
            self._alias(slot, model)

    @property
    def slots(self) -> int:
        return len(self.slot_models)

    def leaves(self) -> dict[str, Tensor]:
        """Fresh autograd leaves [slots, *shape] for all parameters, and the buffers as they are."""
        parameters = {name for name, _ in self.slot_models[0].named_parameters()}
        return {
            name: nn.Parameter(tensor, requires_grad=name in self.trainable)
            if name in parameters
            else tensor
            for name, tensor in self.stacked.items()
        }

    def buffer_values(self) -> list[Tensor]:
        """Copies of all stacked buffers, for `restore_buffers`."""
        return [self.stacked[name].clone() for name in self._buffers]

    @torch.no_grad()
    def restore_buffers(self, values: Sequence[Tensor], slots: Sequence[int]) -> None:
        """Puts back, for these slots, what `buffer_values` gave.

        Past autograd (`data`), which would call it a change of what a norm keeps for its backward:
        no other slot's gradient reads these rows.
        """
        for name, value in zip(self._buffers, values, strict=True):
            for slot in slots:
                self.stacked[name].data[slot].copy_(value[slot])

    def slot_parameters(self, names: Collection[str]) -> dict[str, list[Tensor]]:
        """The slot models' own parameters of these names, one per slot."""
        named = [dict(model.named_parameters()) for model in self.slot_models]
        return {name: [own[name] for own in named] for name in names}

    def _alias(self, slot: int, model: nn.Module) -> None:
        """Makes the slot's memory the model's own; object identities, and so ties, stay."""
        for name, tensor in self._shared(model):
            tensor.data = self.stacked[name][slot]
        self._addresses[slot] = _addresses(model)

    def own_buffers(self, model: nn.Module) -> list[str]:
        """The names of its buffers that are in no stack."""
        return [name for name, _ in model.named_buffers() if name not in self.owner]

    def _shared(self, model: nn.Module) -> list[tuple[str, Tensor]]:
        """The model's tensors that are stacked, by name."""
        return [(name, x) for name, x in _tensors(model).items() if name in self.stacked]

    @torch.no_grad()
    def take_back(self) -> None:
        """Where a user's code has given a slot model other tensors (`weight.data = ...`,
        `self.buffer = ...`), their values come into the stack, and its memory is theirs again.
        """
        for slot, model in enumerate(self.slot_models):
            if _addresses(model) == self._addresses[slot]:  # ten times as fast as names
                continue
            for name, tensor in self._shared(model):
                row = self.stacked[name][slot]
                if tensor.data_ptr() != row.data_ptr():
                    if tensor.shape != row.shape:
                        raise FusionError(
                            f"forward has given '{name}' in slot {slot} the shape "
                            f"{list(tensor.shape)}, not {list(row.shape)}: in a bundle buffers and "
                            "parameters keep their shapes; make it as large as it gets"
                        )
                    row.copy_(tensor)
                    tensor.data = row
            self._addresses[slot] = _addresses(model)  # with those of buffers that forward has made

    def refuse_thawed(self) -> None:
        """FusionError if a parameter that was frozen at binding wants a gradient now."""
        for name in self.frozen:
            for slot, model in enumerate(self.slot_models):
                if model.get_parameter(name).requires_grad:
                    raise FusionError(
                        f"'{name}' in slot {slot} wants a gradient but was frozen when the bundle "
                        "was bound; bind with it unfrozen, its gradient absent until then"
                    )

    def write(self, slot: int, model: nn.Module) -> None:
        """Puts a model's values into the slot and takes the model as its slot model.

        Past autograd (`data`): backward of what the others did before reads their own rows.
        """
        for name, tensor in self._shared(model):
            self.stacked[name].data[slot].copy_(tensor)
        self._alias(slot, model)
        self.slot_models[slot] = model
        self.active[slot] = True
        self.failures.pop(slot, None)
        self.spared.discard(slot)

    def of_slots(self, new: NewSlots) -> StackedState:
        """The same trials in other slots. It takes over the slot models: `take_back` of this one
        gets them back.
        """
        pattern = [own_copy(self.slot_models[new.sources[slot]], "trial") for slot in new.empty]
        copies = dict(zip(new.empty, pattern, strict=True))
        models = [copies.get(slot, self.slot_models[old]) for slot, old in enumerate(new.sources)]
        own = {name for model in models for name in self.own_buffers(model)}
        other = StackedState(models, own)
        for slot, old in enumerate(new.sources):
            other.active[slot] = self.active[old] and slot not in new.empty
            if slot in new.empty and slot in self.failures:  # nobody has moved in
                other.failures[slot] = self.failures[slot]
        return other

    def fail(self, slot: int, error: Exception) -> None:
        """The slot's model raised: it is idle from now on."""
        self.active[slot] = False
        self.failures[slot] = error

    def spare_idle_slots(self) -> bool:
        """All slots together raised, and the active ones did not: it was the idle ones' inputs,
        unless it returns False, since no slot is idle that was not spared.
        """
        idle = {slot for slot, is_active in enumerate(self.active) if not is_active}
        are_new = not idle <= self.spared
        self.spared |= idle
        return are_new

    def extract(self, slot: int) -> nn.Module:
        """A copy of the slot's model, of the user's class, with storage of its own."""
        return own_copy(self.slot_models[slot], f"trial in slot {slot}")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _addresses(model: nn.Module) -> list[int]:
    """Where the memory of all its tensors is, in an order of its own."""
    modules, found = [model], []
    while modules:
        module = modules.pop()
        modules += [inner for inner in module._modules.values() if inner is not None]
        for own in (module._parameters, module._buffers):
            found += [tensor.data_ptr() for tensor in own.values() if tensor is not None]
    return found


def _owners(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer -> the first name of the same tensor."""
    first: dict[int, str] = {id(t): name for name, t in _tensors(model).items()}
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: first[id(tensor)] for name, tensor in every}
