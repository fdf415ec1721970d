"""Distances between the rows of two tensors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn import shapes


def cosine_similarity(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Along unfused axis `dim` of the two, broadcast."""
    rank = max(a.ndim, b.ndim)
    a, b = shapes.align(a, rank), shapes.align(b, rank)
    return F.cosine_similarity(a, b, shapes.inner_dim(a, dim), eps)


def pairwise_distance(
    a: Tensor, b: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """Along the last axis of the two, broadcast."""
    rank = max(a.ndim, b.ndim)
    return F.pairwise_distance(shapes.align(a, rank), shapes.align(b, rank), p, eps, keepdim)
