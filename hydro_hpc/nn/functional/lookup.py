"""Look-ups in F tables."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.members import Refused


def embedding(
    index_FB: Tensor,
    weight_FVD: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """[F, ...] -> [F, ..., D]. An index beyond the vocabulary is an error as it is unfused, and
    never a neighbour's row."""
    if sparse or scale_grad_by_freq:
        raise Refused("an embedding with sparse or scaled gradients has no fused rule")
    slots, vocabulary = weight_FVD.shape[:2]
    index = index_FB.expand(slots, *index_FB.shape[1:])
    require_inside(index, vocabulary)
    if max_norm is not None:
        renormalize(index, weight_FVD, max_norm, norm_type)
    first_row = torch.arange(slots, device=index.device) * vocabulary
    flat = index + first_row.view(slots, *[1] * (index.ndim - 1))
    rows = F.embedding(flat, weight_FVD.flatten(0, 1))
    if padding_idx is None or not rows.requires_grad:
        return rows
    is_padding = (index == padding_idx % vocabulary).unsqueeze(-1)
    return torch.where(is_padding, rows.detach(), rows)


def require_inside(index: Tensor, vocabulary: int) -> None:
    """IndexError, or the device's own error, unless all are rows of the table."""
    if index.numel() == 0:
        return
    if index.device.type != "cpu":
        torch._assert_async(((index >= 0) & (index < vocabulary)).all())
        return
    least, largest = index.aminmax()
    if least < 0 or largest >= vocabulary:
        raise IndexError(f"rows {int(least)} to {int(largest)} of a table of {vocabulary}")


def renormalize(index_F: Tensor, weight_FVD: Tensor, max_norm: float, norm_type: float) -> None:
    """Shortens the rows that are looked up to `max_norm`, in place, as torch does."""
    with torch.no_grad():
        for index, weight in zip(index_F, weight_FVD.detach(), strict=True):
            torch.embedding_renorm_(weight, index.contiguous(), max_norm, norm_type)


def embedding_bag(
    index_FBN: Tensor,
    weight_FVD: Tensor,
    offsets: Tensor | None = None,
    *,
    per_sample_weights: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    **settings: Any,
) -> Tensor:
    """[F, bags, N] -> [F, bags, D], bags of one length: a call per slot."""
    if index_FBN.ndim != 3 or offsets is not None:
        raise Refused("embedding_bag of bags of different lengths has no fused rule")
    if settings.get("sparse") or settings.get("scale_grad_by_freq"):
        raise Refused("embedding_bag with sparse or scaled gradients has no fused rule")
    slots = weight_FVD.size(0)
    index = index_FBN.expand(slots, *index_FBN.shape[1:])
    if max_norm is not None:
        renormalize(index, weight_FVD, max_norm, norm_type)
    tables = weight_FVD.unbind(0)
    weights = [None] * slots if per_sample_weights is None else per_sample_weights.unbind(0)
    rows = zip(index, tables, weights, strict=True)
    return torch.stack(
        [F.embedding_bag(i, table, per_sample_weights=w, **settings) for i, table, w in rows]
    )


def one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    """[F, ...] -> [F, ..., classes]"""
    if num_classes < 0:
        raise Refused("one_hot without num_classes has no fused rule: slots may differ in it")
    return F.one_hot(index, num_classes)
