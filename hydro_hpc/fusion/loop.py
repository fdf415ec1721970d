"""The loop: F real models, one after the other. Exact for anything; the floor for everything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.nn.randomness import SlotStreams, seed_globally


class LoopExecutor:
    """Calls each slot model with its own row of the inputs, within its own random stream."""

    @property
    def kind(self) -> ExecutorKind:
        return ExecutorKind.LOOP

    def __init__(self, state: StackedState, streams: SlotStreams) -> None:
        self.state, self.streams = state, streams
        self._leaves: dict[str, list[Tensor]] = {}
        self.collect_leaves()

    def collect_leaves(self) -> None:
        """A slot has another model now."""
        named = [dict(model.named_parameters()) for model in self.state.slot_models]
        self._leaves = {name: [own[name] for own in named] for name in self.state.trainable}

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Idle slots are left out: their outputs are NaN (0 where whole numbers). A model that
        raises makes its slot idle and fails alone; if none is left, the last error is raised."""
        own = pytree.tree_map_only(Tensor, _without_overlap, (args, dict(kwargs)))
        rows = pytree.tree_map_only(Tensor, _on_its_own, split_slots(own, self.state.slots))
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        outputs: dict[int, Any] = {}
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
            for slot, (model, row) in enumerate(zip(self.state.slot_models, rows, strict=True)):
                if self.state.active[slot]:
                    self._call(slot, model, row, outputs)
        if not outputs:
            raise nobody_left(self.state.failures)
        blank = pytree.tree_map_only(Tensor, _blank, next(iter(outputs.values())))
        return stack_slots([outputs.get(slot, blank) for slot in range(self.state.slots)])

    def _call(self, slot: int, model: nn.Module, row: Any, outputs: dict[int, Any]) -> None:
        args, kwargs = row
        seed_globally(self.streams.key(slot))
        try:
            outputs[slot] = model(*args, **kwargs)
        except Exception as error:  # the user's code: it may raise anything
            self.state.fail(slot, error)

    def modules_to_gate(self) -> list[nn.Module]:
        return [
            module
            for model in self.state.slot_models
            for module in model.modules()
            if not any(module.children())
        ]

    def adopt_training_flags(self) -> None:
        """Nothing to do: the models have them."""

    def leaf(self, name: str) -> list[Tensor]:
        return self._leaves[name]


def nobody_left(failures: Mapping[int, Exception]) -> FusionError:
    """Why no slot could be run."""
    for slot, cause in failures.items():
        error = FusionError(f"the model in slot {slot} raised {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error
    return FusionError("all slots are idle: replace one with a trial's model first")


def _without_overlap(x_FB: Tensor) -> Tensor:
    """Rows of their own where slots share one batch: a model may write into its input."""
    return x_FB.contiguous() if x_FB.stride(0) == 0 else x_FB


def _on_its_own(row: Tensor) -> Tensor:
    """The same memory without the other rows' history: a write into it is none into them."""
    return row if row.requires_grad else row.data


def _blank(x: Tensor) -> Tensor:
    return torch.full_like(x, math.nan if x.is_floating_point() else 0, requires_grad=False)


def split_slots(tree: Any, slots: int) -> list[Any]:
    """One tree per slot from a tree of tensors [slots, ...]; what is no tensor goes to each.

    `unbind`, not indexing: the backward of F index operations would be quadratic in F.
    """
    leaves, spec = pytree.tree_flatten(tree)
    columns = [leaf.unbind(0) if isinstance(leaf, Tensor) else [leaf] * slots for leaf in leaves]
    rows = zip(*columns, strict=True) if columns else [()] * slots
    return [pytree.tree_unflatten(list(row), spec) for row in rows]


def stack_slots(outputs: list[Any]) -> Any:
    """One tree of tensors [slots, ...] from one tree per slot."""
    leaves, specs = zip(*(pytree.tree_flatten(output) for output in outputs), strict=True)
    for slot, spec in enumerate(specs):
        if spec != specs[0]:
            raise FusionError(f"slot {slot} returned {spec} but slot 0 {specs[0]}")
    return pytree.tree_unflatten([_stack(column) for column in zip(*leaves, strict=True)], specs[0])


def _stack(column: tuple[Any, ...]) -> Any:
    if all(isinstance(value, Tensor) for value in column):
        shapes = {tuple(value.shape) for value in column}
        if len(shapes) > 1:
            raise FusionError(f"slots returned tensors of different shapes {sorted(shapes)}")
        return torch.stack(column)
    if any(isinstance(value, Tensor) or type(value) is not type(column[0]) for value in column):
        raise FusionError("slots returned a tensor in one place and something else in another")
    if not isinstance(column[0], int | float | str | bool | None) or len(set(column)) > 1:
        raise FusionError(
            f"models returned a {type(column[0]).__name__}, which has no slot dimension: "
            "return tensors, or tuples, lists and dicts of them"
        )
    return column[0]
