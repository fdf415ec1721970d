"""Reductions and scans along unfused axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.nn import shapes
from hydro_hpc.nn.members import Refused

Dims = int | Sequence[int] | None


def reduced(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction over some axes at once, or over all."""

    def apply(x: Tensor, dim: Dims = None, keepdim: bool = False, **settings: Any) -> Any:
        if x.ndim == 1:
            return operation(_with_an_axis(x), [1], False, **settings)
        return operation(x, shapes.inner_dims(x, dim), keepdim, **settings)

    return apply


def reduced_along_one(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction over one axis, or over all of them as one."""

    def apply(x: Tensor, dim: int | None = None, keepdim: bool = False, **settings: Any) -> Any:
        if dim is None:
            if keepdim:
                raise Refused("keepdim=True without an axis has no fused rule")
            return operation(x.reshape(x.size(0), -1), 1, False, **settings)
        return operation(x, shapes.inner_dim(x, dim), keepdim, **settings)

    return apply


def spread(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.var` and `torch.std`, whose second argument may be an axis or `unbiased`."""

    def apply(
        x: Tensor,
        dim: Dims | bool = None,
        unbiased: bool | None = None,
        keepdim: bool = False,
        *,
        correction: Any = None,
    ) -> Tensor:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        if correction is None:
            correction = 1 if unbiased is None else int(unbiased)
        x = _with_an_axis(x)
        dims = shapes.inner_dims(x, dim)
        return operation(x, dim=dims, correction=correction, keepdim=keepdim)

    return apply


def extreme(
    along: Callable[..., Any], of_all: Callable[..., Tensor], of_two: Callable[..., Tensor]
) -> Callable[..., Any]:
    """`torch.max` or `torch.min`: of all, along an axis with the places, or of two tensors."""

    def apply(x: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            return of_all(x.reshape(x.size(0), -1), 1)
        if isinstance(dim, Tensor):
            rank = max(x.ndim, dim.ndim)
            return of_two(shapes.align(x, rank), shapes.align(dim, rank))
        return along(x, shapes.inner_dim(x, dim), keepdim)

    return apply


def norm(x: Tensor, p: Any = "fro", dim: Dims = None, keepdim: bool = False) -> Tensor:
    if isinstance(p, str) and p != "fro":
        raise Refused(f"norm of kind '{p}' has no fused rule")
    order = 2.0 if p == "fro" or p is None else p
    return vector_norm(x, order, dim, keepdim)


def vector_norm(x: Tensor, ord: Any = 2, dim: Dims = None, keepdim: bool = False) -> Tensor:
    x = _with_an_axis(x)
    y: Tensor = torch.linalg.vector_norm(x, ord, shapes.inner_dims(x, dim), keepdim)
    return y


def _with_an_axis(x: Tensor) -> Tensor:
    """One number per slot gets the axis 0 that torch lets it have."""
    return x.unsqueeze(1) if x.ndim == 1 else x


def scanned(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A scan along one axis."""
    return lambda x, dim, **settings: operation(x, shapes.inner_dim(x, dim), **settings)


RULES: Final[dict[str, Callable[..., Any]]] = {
    "all": reduced(torch.all),
    "amax": reduced(torch.amax),
    "amin": reduced(torch.amin),
    "any": reduced(torch.any),
    "argmax": reduced_along_one(torch.argmax),
    "argmin": reduced_along_one(torch.argmin),
    "cumprod": scanned(torch.cumprod),
    "cumsum": scanned(torch.cumsum),
    "logcumsumexp": scanned(torch.logcumsumexp),
    "logsumexp": reduced(torch.logsumexp),
    "max": extreme(torch.max, torch.amax, torch.maximum),
    "mean": reduced(torch.mean),
    "min": extreme(torch.min, torch.amin, torch.minimum),
    "norm": norm,
    "prod": reduced_along_one(torch.prod),
    "std": spread(torch.std),
    "sum": reduced(torch.sum),
    "var": spread(torch.var),
}
FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    **{getattr(torch, name): rule for name, rule in RULES.items()},
    torch.linalg.vector_norm: vector_norm,
}
METHODS: Final = RULES
