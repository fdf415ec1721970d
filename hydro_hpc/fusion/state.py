"""The one stacked state of a bundle: every parameter and buffer of F models, slot dimension first.

Trainable parameters of one dtype lie in one tensor [slots, P] (a `Block`), so that an optimizer is
a handful of operations; parameter `name` is a view [slots, *shape] of some of its columns. F real
model objects (the slot models) have this memory as their parameters and buffers, so executors that
use the stack and executors that use the models work on the same state.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError


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
    `active[slot]` False; `failures` has what models raised, by slot.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.slot_models = list(models)
        self.active = [True] * len(self.slot_models)
        self.failures: dict[int, Exception] = {}
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
        for name in own[0]:
            if name not in self.stacked:
                self.stacked[name] = torch.stack([tensors[name].detach() for tensors in own])
        self.owner = _owners(first)
        for slot, model in enumerate(self.slot_models):
            self._alias(slot, model)

    @property
    def slots(self) -> int:
        return len(self.slot_models)

    def _alias(self, slot: int, model: nn.Module) -> None:
        """Makes the slot's memory the model's own; object identities, and so ties, stay."""
        for name, tensor in _tensors(model).items():
            tensor.data = self.stacked[name][slot]

    def write(self, slot: int, model: nn.Module) -> None:
        """Puts a model's values into the slot and takes the model as its slot model."""
        with torch.no_grad():
            for name, tensor in _tensors(model).items():
                self.stacked[name][slot].copy_(tensor)
        self._alias(slot, model)
        self.slot_models[slot] = model
        self.active[slot] = True
        self.failures.pop(slot, None)

    def fail(self, slot: int, error: Exception) -> None:
        """The slot's model raised: it is idle from now on."""
        self.active[slot] = False
        self.failures[slot] = error

    def extract(self, slot: int) -> nn.Module:
        """A copy of the slot's model, of the user's class, with storage of its own."""
        return own_copy(self.slot_models[slot], f"trial in slot {slot}")


def own_copy(model: nn.Module, who: str) -> nn.Module:
    """A deep copy in which every parameter and buffer has storage of its own and no gradient."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        values = parameter.detach().clone(memory_format=torch.contiguous_format)
        memo[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
    for tensor in [*model.buffers(), *_kept_results(model)]:
        memo[id(tensor)] = tensor.detach().clone(memory_format=torch.contiguous_format)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # a user's attribute may be anything
        raise FusionError(f"the {who} cannot be copied: {type(error).__name__}: {error}") from error


def _kept_results(model: nn.Module) -> list[Tensor]:
    """What a forward left in plain attributes with its graph, which Python cannot copy."""
    attributes = [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules")
    ]
    kept = pytree.tree_leaves(attributes)
    return [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _owners(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer -> the first name of the same tensor."""
    first: dict[int, str] = {id(t): name for name, t in _tensors(model).items()}
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: first[id(tensor)] for name, tensor in every}
