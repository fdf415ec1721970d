"""Attention: slots and batch are folded into one axis."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.shapes import align


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """[F, B, heads, T, D] each, or with fewer axes before the last two -> the same as `query`."""
    if dropout_p != 0.0:
        raise Refused("attention with dropout_p draws random numbers: it has no fused rule")
    slots, rank = query.size(0), query.ndim
    mask = None if attn_mask is None else align(attn_mask, rank)
    if rank <= 4:  # the slots stand for the batch
        return F.scaled_dot_product_attention(
            query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    y = F.scaled_dot_product_attention(
        q,
        k,
        v,
        None if mask is None else _folded(mask, slots, query.size(1)),
        0.0,
        is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )
    return y.reshape(slots, -1, *y.shape[1:])


def _folded(mask: Tensor, slots: int, batch: int) -> Tensor:
    """[F, B, ...] of slots and batch as one axis, which is left out where all share the mask."""
    is_repeated = mask.stride(0) == 0 and not mask.requires_grad
    if mask.size(1) == 1 and (mask.size(0) == 1 or is_repeated):
        return mask[0]
    return mask.expand(slots, batch, *mask.shape[2:]).flatten(0, 1)
