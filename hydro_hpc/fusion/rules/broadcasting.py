"""Operations of several tensors or numbers, element by element, with unfused broadcasting."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.nn import shapes


def aligned(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation, slot by slot."""

    def apply(*operands: Any, **settings: Any) -> Any:
        ranks = {x.ndim for x in operands if isinstance(x, Tensor)}
        if len(ranks) > 1:
            operands = together(operands, max(ranks))
        return operation(*operands, **settings)

    return apply


def together(operands: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """All tensors with `rank` fused axes. One that is a single number per slot gets the others'
    dtype where it would have no say in the result's, were it one unfused."""
    shaped = [x for x in operands if isinstance(x, Tensor) and x.ndim > 1]
    dtype = shaped[0].dtype
    for x in shaped:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(shapes.align(x.to(dtype) if _has_no_say(x, dtype) else x, rank) for x in operands)


def _has_no_say(x: Any, dtype: torch.dtype) -> bool:
    return isinstance(x, Tensor) and x.ndim == 1 and _category(x.dtype) <= _category(dtype)


def _category(dtype: torch.dtype) -> int:
    if dtype.is_complex:
        return 3
    return 2 if dtype.is_floating_point else int(dtype is not torch.bool)


def masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Broadcasts `mask` and `value` too."""
    x, mask = together((x, mask), max(x.ndim, mask.ndim))
    if isinstance(value, Tensor):
        return torch.where(mask, shapes.align(value, x.ndim).to(x.dtype), x)
    return x.masked_fill(mask, value)


def masked_fill_(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    mask = shapes.align(mask, x.ndim)
    if isinstance(value, Tensor):
        return x.copy_(torch.where(mask, shapes.align(value, x.ndim).to(x.dtype), x))
    return x.masked_fill_(mask, value)


def written(operation: Callable[..., Any]) -> Callable[..., Any]:
    """An operation that writes its result into its first operand."""

    def apply(x: Tensor, *operands: Any, **settings: Any) -> Any:
        return operation(x, *(shapes.align(other, x.ndim) for other in operands), **settings)

    return apply


OPERATIONS: Final = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    operator.and_, operator.or_, operator.xor, operator.invert,
    torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.true_divide, torch.floor_divide,
    torch.fmod, torch.remainder, torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge,
    torch.logical_and, torch.logical_or, torch.logical_xor, torch.maximum, torch.minimum,
    torch.atan2, torch.where, torch.addcmul, torch.addcdiv, torch.lerp,
)  # fmt: skip
NAMES: Final = (
    "add", "sub", "mul", "div", "pow", "true_divide", "floor_divide", "fmod", "remainder", "eq",
    "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "maximum", "minimum",
    "atan2", "addcmul", "addcdiv", "lerp",
)  # fmt: skip

FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    **{operation: aligned(operation) for operation in OPERATIONS},
    torch.masked_fill: masked_fill,
}
METHODS: Final[dict[str, Callable[..., Any]]] = {
    **{name: aligned(getattr(torch, name)) for name in NAMES},
    **{name: written(getattr(Tensor, name)) for name in ("add_", "sub_", "mul_", "div_")},
    "masked_fill": masked_fill,
    "masked_fill_": masked_fill_,
    "where": lambda x, condition, other: aligned(torch.where)(condition, x, other),
}
