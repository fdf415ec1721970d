"""Choosing elements by place, by index or by order."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.nn import shapes
from hydro_hpc.nn.members import Refused


def getitem(x: Any, index: Any) -> Any:
    """Of a tensor: whole numbers, slices, None, `...`, and tensors of whole numbers one after the
    other; of anything else, such as a size: as Python."""
    if not isinstance(x, Tensor):
        return x[index]
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(part, Tensor | list) for part in parts):
        return x[(slice(None), *parts)]
    return _by_tensors(x, parts)


def _by_tensors(x: Tensor, parts: tuple[Any, ...]) -> Tensor:
    """A place in each slot for each element of the index tensors."""
    first, tensors, rest = _split(parts)
    if any(not isinstance(part, Tensor) or part.dtype is torch.bool for part in tensors):
        raise Refused("indexing with lists or masks has no fused rule")
    if any(not isinstance(part, slice) for part in (*first, *rest)):
        raise Refused("indexing with tensors beside anything but slices has no fused rule")
    slots, rank = x.size(0), max(index.ndim for index in tensors)
    aligned = [shapes.align(index, rank) for index in tensors]
    shape = torch.broadcast_shapes((slots, *[1] * (rank - 1)), *(t.shape for t in aligned))
    own = torch.arange(slots, device=x.device).view(slots, *[1] * (rank - 1))
    places = [torch.broadcast_to(t, shape) for t in (own, *aligned)]
    found = x[(places[0], *first, *places[1:], *rest)]
    sources = list(range(1, rank))
    return found.movedim(sources, [n + len(first) for n in sources]) if first else found


def _split(parts: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """What comes before, between (with) and after the index tensors."""
    at = [n for n, part in enumerate(parts) if isinstance(part, Tensor | list)]
    start, stop = at[0], at[-1] + 1
    return parts[:start], parts[start:stop], parts[stop:]


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    return x.gather(shapes.inner_dim(x, dim), index.expand(x.size(0), *index.shape[1:]))


def take_along_dim(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    return torch.take_along_dim(x, indices, shapes.inner_dim(x, dim))


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    axis = shapes.inner_dim(x, dim) % x.ndim
    if index.size(0) == 1 and index.ndim == 2:  # the same in all slots
        return x.index_select(axis, index[0])
    before, after = x.shape[1:axis], x.shape[axis + 1 :]
    column = index.reshape(x.size(0), *[1] * len(before), -1, *[1] * len(after))
    return x.gather(axis, column.expand(x.size(0), *before, -1, *after))


def scatter(x: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    index = index.expand(x.size(0), *index.shape[1:])
    return x.scatter(shapes.inner_dim(x, dim), index, src)


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    index = index.expand(x.size(0), *index.shape[1:])
    return x.scatter_add(shapes.inner_dim(x, dim), index, src)


def topk(
    x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> torch.return_types.topk:
    return torch.topk(x, k, shapes.inner_dim(x, dim), largest, sorted)


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return torch.sort(x, dim=shapes.inner_dim(x, dim), descending=descending, stable=stable)


def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    return torch.argsort(x, dim=shapes.inner_dim(x, dim), descending=descending, stable=stable)


def triangle(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tril` or `torch.triu` of the last two axes."""

    def apply(x: Tensor, diagonal: int = 0) -> Tensor:
        if x.ndim < 3:
            raise RuntimeError("a triangle of a tensor with fewer than 2 axes")
        return operation(x, diagonal)

    return apply


RULES: Final[dict[str, Callable[..., Any]]] = {
    "argsort": argsort,
    "gather": gather,
    "index_select": index_select,
    "scatter": scatter,
    "scatter_add": scatter_add,
    "sort": sort,
    "take_along_dim": take_along_dim,
    "topk": topk,
    "tril": triangle(torch.tril),
    "triu": triangle(torch.triu),
}
FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    **{getattr(torch, name): rule for name, rule in RULES.items()},
    operator.getitem: getitem,
}
METHODS: Final = RULES
