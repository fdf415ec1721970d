"""Functions that treat every sample of a batch by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hydro_hpc.nn.shapes import fold, unfold


def per_sample(function: Callable[..., Any], *, rank: int) -> Callable[..., Tensor]:
    """The fused form of a function of a batch of `rank` axes, or of one sample without the batch
    axis: then the slots take its place."""

    def apply(x_FB: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x_FB.ndim == rank:
            alone: Tensor = function(x_FB, *args, **kwargs)
            return alone
        if x_FB.ndim != rank + 1:
            name = function.__name__
            raise ValueError(f"{name} takes a tensor of rank {rank}, not {x_FB.ndim - 1}")
        x, batch_first = fold(x_FB)
        return unfold(function(x, *args, **kwargs), x_FB.size(0), batch_first=batch_first)

    return apply


def per_row(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """The fused form of a function whose first axis is the batch, at any rank."""

    def apply(x_FB: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x_FB.ndim < 2:
            raise ValueError(f"{function.__name__} takes a batch")
        x, batch_first = fold(x_FB)
        return unfold(function(x, *args, **kwargs), x_FB.size(0), batch_first=batch_first)

    return apply


def leading(function: Callable[..., Any], *, rank: int) -> Callable[..., Tensor]:
    """The fused form of a function of the last `rank` axes that takes any axes before them."""

    def apply(x_F: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x_F.ndim <= rank:
            raise ValueError(f"{function.__name__} takes {rank} axes or more, not {x_F.ndim - 1}")
        y: Tensor = function(x_F, *args, **kwargs)
        return y

    return apply
