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
    """The fused axes of some unfused axes; None, or no axis, means all of them, as for torch's
    reductions."""
    if isinstance(dims, int):
        return [inner_dim(x, dims)]
    return [inner_dim(x, dim) for dim in dims] if dims else list(range(1, x.ndim))


def new_dim(x: Tensor, dim: int) -> int:
    """The fused place of an axis that is put in at unfused place `dim`."""
    if not -x.ndim <= dim < x.ndim:
        raise IndexError(f"no axis can be put at {dim} into a tensor of rank {x.ndim - 1}")
    return dim + 1 if dim >= 0 else dim


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


def fold_channels(x_FBC: Tensor) -> Tensor:
    """[slots, batch, channels, ...] as [batch, slots * channels, ...], without a copy where the
    memory allows."""
    return x_FBC.transpose(0, 1).flatten(1, 2)


def unfold_channels(y: Tensor, slots: int) -> Tensor:
    """Undoes `fold_channels`, whatever number of channels there is now."""
    return y.unflatten(1, (slots, -1)).transpose(0, 1)  # type: ignore[no-any-return]


def sizes_of(arguments: Sequence[Any]) -> tuple[int, ...]:
    """Sizes or axes that were given one by one or as one sequence."""
    is_one = len(arguments) == 1 and not isinstance(arguments[0], int)
    return tuple(arguments[0] if is_one else arguments)


def size(x: Tensor, dim: int | None = None) -> Any:
    return x.shape[1:] if dim is None else x.size(inner_dim(x, dim))


def rank(x: Tensor) -> int:
    return x.ndim - 1


def numel(x: Tensor) -> int:
    return x.shape[1:].numel()


def reshape(x: Tensor, *shape: Any, **named: Any) -> Tensor:
    return x.reshape(x.size(0), *sizes_of(shape or tuple(named.values())))


def reshape_as(x: Tensor, other: Tensor) -> Tensor:
    return x.reshape(x.size(0), *other.shape[1:])


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    if x.ndim == 1:
        return x.unsqueeze(1)
    return x.flatten(inner_dim(x, start_dim), inner_dim(x, end_dim))


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    y: Tensor = x.unflatten(inner_dim(x, dim), sizes)
    return y


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    return x.unsqueeze(new_dim(x, dim))


def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    if dim is None:
        return x.squeeze([axis for axis in range(1, x.ndim) if x.size(axis) == 1])
    return x.squeeze(inner_dims(x, dim) if dim != () else [])


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    return x.transpose(inner_dim(x, dim0), inner_dim(x, dim1))


swapaxes = swapdims = transpose


def t(x: Tensor) -> Tensor:
    """Of a matrix, or of less, which stays as it is."""
    if x.ndim > 3:
        raise RuntimeError(f"the transpose of a tensor of rank {x.ndim - 1}")
    return x.transpose(1, 2) if x.ndim == 3 else x


def permute(x: Tensor, *dims: Any, **named: Any) -> Tensor:
    order = sizes_of(dims or tuple(named.values()))
    rank = x.ndim - 1
    if sorted(dim % rank for dim in order) != list(range(rank)):
        raise RuntimeError(f"permute of rank {rank} by {order}")
    return x.permute(0, *[dim % rank + 1 for dim in order])


def movedim(x: Tensor, source: Any, destination: Any) -> Tensor:
    return x.movedim(inner_dims(x, source), inner_dims(x, destination))


def expand(x: Tensor, *sizes: Any) -> Tensor:
    wanted = sizes_of(sizes)
    return align(x, len(wanted) + 1).expand(x.size(0), *wanted)  # type: ignore[no-any-return]


def broadcast_to(x: Tensor, size: Sequence[int]) -> Tensor:
    return expand(x, size)


def expand_as(x: Tensor, other: Tensor) -> Tensor:
    return align(x, other.ndim).expand(other.shape)  # type: ignore[no-any-return]


def repeat(x: Tensor, *sizes: Any) -> Tensor:
    wanted = sizes_of(sizes)
    if len(wanted) < x.ndim - 1:
        raise RuntimeError(f"repeat by {wanted} of a tensor of rank {x.ndim - 1}")
    return align(x, len(wanted) + 1).repeat(1, *wanted)  # type: ignore[no-any-return]


def tile(x: Tensor, *dims: Any) -> Tensor:
    wanted = sizes_of(dims)
    return repeat(x, *[1] * (x.ndim - 1 - len(wanted)), *wanted)


def repeat_interleave(x: Tensor, repeats: int, dim: int | None = None) -> Tensor:
    if not isinstance(repeats, int):
        raise TypeError("repeat_interleave by a tensor")
    if dim is None:
        return x.reshape(x.size(0), -1).repeat_interleave(repeats, 1)
    return x.repeat_interleave(repeats, inner_dim(x, dim))


def roll(x: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    if dims is None:
        return x.flatten(1).roll(shifts, 1).reshape(x.shape)
    return x.roll(shifts, inner_dims(x, dims))


def flip(x: Tensor, *dims: Any) -> Tensor:
    axes = sizes_of(dims)
    return x.flip(inner_dims(x, axes)) if axes else x.clone()


def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    return x.narrow(inner_dim(x, dim), start, length)


def select(x: Tensor, dim: int, index: int) -> Tensor:
    return x.select(inner_dim(x, dim), index)


def windows(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """`x.unfold`."""
    return x.unfold(inner_dim(x, dimension), size, step)


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    return x.diagonal(offset, inner_dim(x, dim1), inner_dim(x, dim2))


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return x.chunk(chunks, inner_dim(x, dim))


def split(x: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    return torch.split(x, split_size, inner_dim(x, dim))


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    return x.unbind(inner_dim(x, dim))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat(_with_all_slots(tensors), inner_dim(tensors[0], dim))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.stack(_with_all_slots(tensors), new_dim(tensors[0], dim))


def _with_all_slots(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those that all slots share, once for each."""
    slots = max(x.size(0) for x in tensors)
    return [x.expand(slots, *x.shape[1:]) for x in tensors]
