"""Sizes, and calls that only rearrange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.nn import shapes

READABLE: Final = frozenset(
    {"T", "device", "dtype", "indices", "is_cuda", "mT", "ndim", "shape", "values"}
)
ANSWERS: Final[dict[str, Callable[[Tensor], Any]]] = {
    "T": shapes.t,
    "mT": lambda x: shapes.transpose(x, -2, -1),
    "ndim": shapes.rank,
    "shape": shapes.size,
}


def attribute(x: Any, name: str) -> Any:
    """`x.shape` and the like, as the unfused tensor would answer."""
    return ANSWERS[name](x) if isinstance(x, Tensor) and name in ANSWERS else getattr(x, name)


BOTH: Final = (
    "broadcast_to", "chunk", "diagonal", "flatten", "flip", "movedim", "narrow", "permute",
    "repeat_interleave", "reshape", "roll", "select", "split", "squeeze", "swapaxes", "swapdims",
    "t", "tile", "transpose", "unbind", "unflatten", "unsqueeze",
)  # fmt: skip

FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    **{getattr(torch, name): getattr(shapes, name) for name in BOTH},
    getattr: attribute,
    torch.cat: shapes.cat,
    torch.concat: shapes.cat,
    torch.numel: shapes.numel,
    torch.stack: shapes.stack,
}
METHODS: Final[dict[str, Callable[..., Any]]] = {
    **{name: getattr(shapes, name) for name in BOTH},
    "dim": shapes.rank,
    "expand": shapes.expand,
    "expand_as": shapes.expand_as,
    "numel": shapes.numel,
    "repeat": shapes.repeat,
    "reshape_as": shapes.reshape_as,
    "size": shapes.size,
    "unfold": shapes.windows,
    "view": shapes.reshape,
    "view_as": shapes.reshape_as,
}
