"""Shape operations for tensors [slots, *unfused shape]: each does in every slot what its name does
to the unfused tensor. An axis that would reach the slot axis is an IndexError, as it is unfused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def inner_dim(x: Tensor, dim: int) -> int:
    """The fused axis of unfused axis `dim`."""
    rank = x.ndim - 1
    if not -rank <= dim < rank:
        raise IndexError(f"axis {dim} is out of range for a tensor of rank {rank}")
    return dim + 1 if dim >= 0 else dim


def inner_dims(x: Tensor, dims: int | Sequence[int] | None) -> list[int]:
    """The fused axes of some unfused axes; None means all of them."""
    if dims is None:
        return list(range(1, x.ndim))
    return [inner_dim(x, dim) for dim in ((dims,) if isinstance(dims, int) else dims)]


def align(x: Any, rank: int) -> Any:
    """`x` with singleton axes after the slot axis up to `rank`, so that broadcasting goes as
    unfused; numbers stay as they are."""
    if not isinstance(x, Tensor) or x.ndim >= rank:
        return x
    return x.reshape(x.size(0), *[1] * (rank - x.ndim), *x.shape[1:])


def fold(x_FB: Tensor) -> tuple[Tensor, bool]:
    """[slots, batch, ...] as one leading axis, without a copy where the memory allows; also
    whether the batch axis went first."""
    batch_first = x_FB.stride(0) < x_FB.stride(1)
    return (x_FB.transpose(0, 1) if batch_first else x_FB).flatten(0, 1), batch_first


def unfold(x: Tensor, slots: int, *, batch_first: bool) -> Tensor:
    """Undoes `fold`."""
    if batch_first:
        return x.reshape(-1, slots, *x.shape[1:]).transpose(0, 1)
    return x.reshape(slots, -1, *x.shape[1:])


def mean(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    return x.mean(inner_dims(x, dim), keepdim) if x.ndim > 1 else x.clone()


def sum(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    return x.sum(inner_dims(x, dim), keepdim) if x.ndim > 1 else x.clone()


def size(x: Tensor, dim: int | None = None) -> Any:
    return x.shape[1:] if dim is None else x.size(inner_dim(x, dim))


def rank(x: Tensor) -> int:
    return x.ndim - 1


def reshape(x: Tensor, *shape: Any) -> Tensor:
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return x.reshape(x.size(0), *sizes)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    if x.ndim == 1:
        return x.unsqueeze(1)
    return x.flatten(inner_dim(x, start_dim), inner_dim(x, end_dim))


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    return x.unsqueeze(dim if dim < 0 else dim + 1)


def squeeze(x: Tensor, dim: int) -> Tensor:
    return x.squeeze(inner_dim(x, dim))


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    return x.transpose(inner_dim(x, dim0), inner_dim(x, dim1))


def permute(x: Tensor, *dims: Any) -> Tensor:
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    rank = x.ndim - 1
    return x.permute(0, *[dim % rank + 1 for dim in order])


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat(list(tensors), inner_dim(tensors[0], dim))


def getitem(x: Any, index: Any) -> Any:
    """Of a tensor: whole numbers and slices only; of anything else, such as a size: as Python."""
    if not isinstance(x, Tensor):
        return x[index]
    parts = index if isinstance(index, tuple) else (index,)
    return x[(slice(None), *parts)]
