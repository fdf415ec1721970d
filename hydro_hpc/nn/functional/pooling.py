"""Pooling: slots are folded into the batch or into the channels, which pooling leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.functional.samples import per_sample
from hydro_hpc.nn.shapes import fold_channels, unfold_channels


def _per_channel(function: Callable[..., Any], *, rank: int) -> Callable[..., Tensor]:
    """The fused form of a function of [B, C, ...] of `rank` axes, or of [C, ...]."""
    by_sample = per_sample(function, rank=rank)

    def apply(x_FBC: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        is_batch_first = x_FBC.stride(0) < x_FBC.stride(1)
        if x_FBC.ndim != rank + 1 or not is_batch_first:
            return by_sample(x_FBC, *args, **kwargs)
        y = function(fold_channels(x_FBC), *args, **kwargs)
        return unfold_channels(y, x_FBC.size(0))

    return apply


max_pool1d: Final = _per_channel(F.max_pool1d, rank=3)
max_pool2d: Final = _per_channel(F.max_pool2d, rank=4)
max_pool3d: Final = _per_channel(F.max_pool3d, rank=5)
avg_pool1d: Final = _per_channel(F.avg_pool1d, rank=3)
avg_pool2d: Final = _per_channel(F.avg_pool2d, rank=4)
avg_pool3d: Final = _per_channel(F.avg_pool3d, rank=5)
lp_pool1d: Final = _per_channel(F.lp_pool1d, rank=3)
lp_pool2d: Final = _per_channel(F.lp_pool2d, rank=4)
lp_pool3d: Final = _per_channel(F.lp_pool3d, rank=5)
adaptive_avg_pool1d: Final = _per_channel(F.adaptive_avg_pool1d, rank=3)
adaptive_avg_pool2d: Final = _per_channel(F.adaptive_avg_pool2d, rank=4)
adaptive_avg_pool3d: Final = _per_channel(F.adaptive_avg_pool3d, rank=5)
adaptive_max_pool1d: Final = _per_channel(F.adaptive_max_pool1d, rank=3)
adaptive_max_pool2d: Final = _per_channel(F.adaptive_max_pool2d, rank=4)
adaptive_max_pool3d: Final = _per_channel(F.adaptive_max_pool3d, rank=5)
