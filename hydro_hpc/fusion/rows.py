"""Trees of tensors [slots, ...] taken apart into one tree per slot, and put together again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError

# Trees cost 10 to 60 us a call: what most models take and give, plain tensors, goes around them.


def are_tensors(args: Sequence[Any]) -> bool:
    """Says whether these are tensors, and no trees of them."""
    return all(isinstance(x, Tensor) for x in args)


def own_rows(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], slots: int
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each slot, such that a model may write into its own without the others
    noticing.
    """
    if args and not kwargs and are_tensors(args):
        columns = [_own_column(x, slots) for x in args]
        return [(row, {}) for row in zip(*columns, strict=True)]
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    own = [_own_column(x, slots) if isinstance(x, Tensor) else [x] * slots for x in leaves]
    rows = zip(*own, strict=True) if own else [()] * slots
    return [pytree.tree_unflatten(list(row), spec) for row in rows]


def _own_column(x: Tensor, slots: int) -> list[Tensor]:
    return [_on_its_own(row) for row in _rows(_without_overlap(of_all(x, slots)))]


def flatten(tree: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """As torch's; dataclasses are trees of their fields."""
    leaves, spec = pytree.tree_flatten(tree)
    records = {type(x) for x in leaves if is_dataclass(x) and not isinstance(x, type)}
    if not records:
        return leaves, spec
    for record in records:
        pytree.register_dataclass(record)
    return flatten(tree)


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors of a tree, in its order."""
    return [x for x in flatten(tree)[0] if isinstance(x, Tensor)]


def of_all(x: Tensor, slots: int) -> Tensor:
    """[slots, ...] from the same, or from [1, ...]: one value that all slots share."""
    return x if x.size(0) == slots else x.expand(slots, *x.shape[1:])


def blank_like(tree: Any) -> Any:
    """Of the same shapes, all NaN (0 where whole numbers), without a gradient."""
    return pytree.tree_map_only(Tensor, _blank, tree)


def _without_overlap(x_FB: Tensor) -> Tensor:
    """Rows of their own where slots share one batch: a model may write into its input."""
    return x_FB.contiguous() if x_FB.stride(0) == 0 else x_FB


def _on_its_own(row: Tensor) -> Tensor:
    """The same memory without the other rows' history: a write into it is none into them."""
    return row if row.requires_grad else row.data


def _blank(x: Tensor) -> Tensor:
    return torch.full_like(x, math.nan if x.is_floating_point() else 0, requires_grad=False)


def split_slots(tree: Any, slots: int) -> list[Any]:
    """One tree per slot from a tree of tensors [slots, ...]; what is no tensor goes to each."""
    if isinstance(tree, Tensor):
        return list(_rows(tree))
    leaves, spec = pytree.tree_flatten(tree)
    columns = [_rows(leaf) if isinstance(leaf, Tensor) else [leaf] * slots for leaf in leaves]
    rows = zip(*columns, strict=True) if columns else [()] * slots
    return [pytree.tree_unflatten(list(row), spec) for row in rows]


def _rows(x: Tensor) -> Sequence[Tensor]:
    """[slots, ...] -> its rows. Not by indexing: the backward of F indices is quadratic in F."""
    return x.unbind(0) if x.size(0) > 1 else (x.squeeze(0),)


def stack_slots(outputs: list[Any]) -> Any:
    """One tree of tensors [slots, ...] from one tree per slot."""
    if are_tensors(outputs):
        return _stack(tuple(outputs))
    leaves, specs = zip(*(flatten(output) for output in outputs), strict=True)
    for slot, spec in enumerate(specs):
        if spec != specs[0]:
            raise FusionError(f"slot {slot} returned {spec} but slot 0 {specs[0]}")
    return pytree.tree_unflatten([_stack(column) for column in zip(*leaves, strict=True)], specs[0])


def stack_rows(rows: Sequence[Tensor]) -> Tensor:
    """[slots, ...] from tensors of one shape; of a single one a view."""
    return torch.stack(tuple(rows)) if len(rows) > 1 else rows[0].unsqueeze(0)


def _stack(column: tuple[Any, ...]) -> Any:
    if all(isinstance(value, Tensor) for value in column):
        shapes = {tuple(value.shape) for value in column}
        if len(shapes) > 1:
            raise FusionError(f"slots returned tensors of different shapes {sorted(shapes)}")
        return stack_rows(column)
    if any(isinstance(value, Tensor) or type(value) is not type(column[0]) for value in column):
        raise FusionError("slots returned a tensor in one place and something else in another")
    if not isinstance(column[0], int | float | str | bool | None) or len(set(column)) > 1:
        raise FusionError(
            f"models returned a {type(column[0]).__name__}, which has no slot dimension: "
            "return tensors, or tuples, lists and dicts of them"
        )
    return column[0]
