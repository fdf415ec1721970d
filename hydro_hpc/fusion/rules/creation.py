"""New tensors and other dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.nn.shapes import sizes_of


def arange(*args: Any, **settings: Any) -> Tensor:
    """[1, n]: one for all slots."""
    return torch.arange(*args, **settings).unsqueeze(0)


def new(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`x.new_zeros` and the like."""
    return lambda x, *sizes, **settings: operation(x, (x.size(0), *sizes_of(sizes)), **settings)


def new_full(x: Tensor, size: Any, fill_value: Any, **settings: Any) -> Tensor:
    return x.new_full((x.size(0), *size), fill_value, **settings)


def converted(x: Tensor, *args: Any, **settings: Any) -> Tensor:
    """To a dtype, a device or another tensor's."""
    return x.to(*args, **settings)


FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    torch.arange: arange,
    torch.full_like: torch.full_like,
    torch.ones_like: torch.ones_like,
    torch.zeros_like: torch.zeros_like,
}
METHODS: Final[dict[str, Callable[..., Any]]] = {
    "new_full": new_full,
    "new_ones": new(Tensor.new_ones),
    "new_zeros": new(Tensor.new_zeros),
    "to": converted,
    "type": Tensor.type,
    "type_as": Tensor.type_as,
}
