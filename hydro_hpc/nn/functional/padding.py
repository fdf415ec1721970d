"""Padding of the last axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.shapes import fold, unfold


def pad(
    x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """[F, ...]; two numbers per axis, the last axis first."""
    axes = len(pad) // 2
    if axes >= x.ndim:
        raise ValueError(f"padding of {axes} axes for a tensor of rank {x.ndim - 1}")
    if mode == "constant" or x.ndim == axes + 2:  # in other modes, without a batch
        return F.pad(x, list(pad), mode, value)
    folded, batch_first = fold(x)
    return unfold(F.pad(folded, list(pad), mode, value), x.size(0), batch_first=batch_first)
