"""F multi-head attentions as one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.linear import Linear
from hydro_hpc.nn.masks import Masks
from hydro_hpc.nn.members import Members, Refused

PACKED = ("in_proj_weight",)
APART = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


class MultiheadAttention(Fused):
    """Query, key and value [F, B, T, E], [F, T, B, E] or [F, T, E] -> the same as the query, and
    the weights; equals F `torch.nn.MultiheadAttention`, each inside its `trial_stream`.

    `weights` are those of query, key and value, as one or apart.
    """

    masks: Masks

    def __init__(
        self,
        weights: list[nn.Parameter],
        bias_FE: nn.Parameter | None,
        out_proj: Linear,
        masks: Masks,
        *,
        num_heads: int,
        batch_first: bool,
    ) -> None:
        super().__init__(num_heads=num_heads, batch_first=batch_first)
        self.weights, self.bias = weights, bias_FE
        self.out_proj, self.masks = out_proj, masks

    @classmethod
    def of(cls, members: Members) -> MultiheadAttention:
        members.require("bias_k", None)
        members.require("bias_v", None)
        members.require("add_zero_attn", False)
        names = PACKED if members.same("_qkv_same_embed_dim") else APART
        probabilities = [float(module.dropout) for module in members.modules]  # type: ignore[arg-type]
        return cls(
            [members.parameter(name) for name in names],
            members.optional_parameter("in_proj_bias"),
            Linear.of(members.part("out_proj", NonDynamicallyQuantizableLinear)),
            Masks(probabilities, members.streams),
            num_heads=members.same("num_heads"),
            batch_first=members.same("batch_first"),
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("need attn_mask if specifying the is_causal hint")
        is_self = query is key and key is value
        without_batch, batch_axis = query.ndim == 3, 1 if self.settings["batch_first"] else 2
        if without_batch:
            query, key, value = (x.unsqueeze(1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(1)
        elif batch_axis == 2:
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        q, k, v = map(self._heads, self._projected(query, key, value, is_self=is_self))
        hinted = is_causal and key_padding_mask is None and not need_weights
        mask = None if hinted else _added(attn_mask, key_padding_mask, q)
        mixed, weights = self._mixed(q, k, v, mask, hinted, need_weights=need_weights)
        y_FTBE = self.out_proj(mixed.permute(0, 3, 1, 2, 4).flatten(3))  # in memory as torch's
        if weights is not None and average_attn_weights:
            weights = weights.mean(2)
        if without_batch:
            return y_FTBE.squeeze(2), None if weights is None else weights.squeeze(1)
        return y_FTBE.transpose(1, 2) if batch_axis == 1 else y_FTBE, weights

    def _projected(
        self, query: Tensor, key: Tensor, value: Tensor, *, is_self: bool
    ) -> tuple[Tensor, ...]:
        if len(self.weights) == 1 and is_self:
            return functional.linear(query, self.weights[0], self.bias).chunk(3, -1)
        weights = self.weights[0].chunk(3, 1) if len(self.weights) == 1 else self.weights
        biases = [None] * 3 if self.bias is None else self.bias.chunk(3, 1)
        triples = zip((query, key, value), weights, biases, strict=True)
        return tuple(functional.linear(x, weight, bias) for x, weight, bias in triples)

    def _heads(self, x_FBTE: Tensor) -> Tensor:
        """[F, B, heads, T, E / heads]"""
        heads: Tensor = x_FBTE.unflatten(3, (self.settings["num_heads"], -1))
        return heads.transpose(2, 3)

    def _mixed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        *,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Values mixed by weights, and the weights where they are wanted."""
        drops = self.training and bool(self.masks)
        if not need_weights and not drops:
            attend = functional.scaled_dot_product_attention
            return attend(q, k, v, mask, is_causal=is_causal), None
        if is_causal:
            mask = q.new_full((q.size(3), k.size(3)), -math.inf).triu(1)
        scores = torch.matmul(q * math.sqrt(1.0 / q.size(4)), k.transpose(3, 4))
        scores = scores if mask is None else scores + mask
        # Where everything is masked the two functions of torch differ: NaN, or 0.
        weights = scores.softmax(4) if need_weights else torch.ops.aten._safe_softmax(scores, 4)
        if drops:
            weights = self.masks.drop(weights)
        return torch.matmul(weights, v), weights if need_weights else None


def _added(attn_mask: Tensor | None, padding: Tensor | None, q_FBHTD: Tensor) -> Tensor | None:
    """What is added to scores [F, B, heads, T, S], of masks [F, T, S] or [F, B * heads, T, S], and
    [F, B, S]; None if nothing is."""
    parts: list[Tensor] = []
    if attn_mask is not None:
        mask = _as_numbers(attn_mask, q_FBHTD.dtype)
        by_head: Any = q_FBHTD.shape[1:3]
        parts.append(mask.unflatten(1, by_head) if mask.ndim == 4 else mask[:, None, None])
    if padding is not None:
        parts.append(_as_numbers(padding, q_FBHTD.dtype)[:, :, None, None])
    if len(parts) == 2:
        return parts[0] + parts[1]
    return parts[0] if parts else None


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """-inf where a mask of truth values is true."""
    if mask.is_floating_point():
        return mask
    if mask.dtype is not torch.bool:
        raise Refused(f"an attention mask of {mask.dtype} has no fused rule")
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
