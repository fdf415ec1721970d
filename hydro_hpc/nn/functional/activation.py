"""Activations that look along an unfused axis or have parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.shapes import inner_dim


def softmax(
    x: Tensor, dim: int, *, dtype: torch.dtype | None = None, _stacklevel: int = 3
) -> Tensor:
    """Along unfused axis `dim`. `_stacklevel` is in torch's signature and means nothing here."""
    return F.softmax(x, inner_dim(x, dim), dtype=dtype)


def log_softmax(
    x: Tensor, dim: int, *, dtype: torch.dtype | None = None, _stacklevel: int = 3
) -> Tensor:
    """The same, as logarithm."""
    return F.log_softmax(x, inner_dim(x, dim), dtype=dtype)


def softmin(
    x: Tensor, dim: int, *, dtype: torch.dtype | None = None, _stacklevel: int = 3
) -> Tensor:
    """Of the negated values."""
    return F.softmax(-x, inner_dim(x, dim), dtype=dtype)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    return F.glu(x, inner_dim(x, dim))


def prelu(x_FBC: Tensor, weight_FC: Tensor) -> Tensor:
    """[F, B, C, ...] -> the same; one slope per slot, or one per slot and channel."""
    slots, slopes = weight_FC.shape
    channels = x_FBC.size(2) if x_FBC.ndim > 2 else 1
    if slopes not in (1, channels):
        raise ValueError(f"prelu with {slopes} slopes for {channels} channels")
    by_channel = [1, slopes] if slopes > 1 else []
    rest = [1] * (x_FBC.ndim - 1 - len(by_channel))
    weight = weight_FC.reshape(slots, *by_channel, *rest)
    return torch.where(x_FBC > 0, x_FBC, weight * x_FBC)


def normalize(
    x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    """Of unit length along unfused axis `dim`."""
    assert out is None
    return F.normalize(x, p, inner_dim(x, dim), eps)
