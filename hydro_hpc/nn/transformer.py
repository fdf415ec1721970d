"""Transformer encoders and decoders, from fused parts with the names of torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.nn.activation import ELEMENTWISE, Elementwise
from hydro_hpc.nn.attention import MultiheadAttention
from hydro_hpc.nn.dropout import Dropout
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.linear import Linear
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.norm import LayerNorm

PLAIN = (F.relu, F.gelu, torch.relu)  # activations that are functions
PARTS: dict[str, tuple[type[nn.Module], Callable[[Members], Fused]]] = {
    "self_attn": (nn.MultiheadAttention, MultiheadAttention.of),
    "multihead_attn": (nn.MultiheadAttention, MultiheadAttention.of),
    "linear": (nn.Linear, Linear.of),
    "norm": (nn.LayerNorm, LayerNorm.of),
    "dropout": (nn.Dropout, Dropout.of),
}


class TransformerEncoderLayer(Fused):
    """[F, B, T, E] or [F, T, B, E], or without B; equals F of torch's."""

    self_attn: Any
    multihead_attn: Any
    linear1: Any
    linear2: Any
    norm1: Any
    norm2: Any
    norm3: Any
    dropout: Any
    dropout1: Any
    dropout2: Any
    dropout3: Any
    activation: Any

    @classmethod
    def of(cls, members: Members) -> TransformerEncoderLayer:
        layer = cls(norm_first=members.same("norm_first"))
        for name in members.modules[0]._modules:
            if name != "activation":
                kind, make = PARTS[name.rstrip("123")]
                layer.add_module(name, make(members.part(name, kind)))
        layer.activation = activation_of(members)
        return layer

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        given = (src_mask, src_key_padding_mask, is_causal)
        x = self._beside(src, self.norm1, lambda y: self._attend_itself(y, *given))
        return self._beside(x, self.norm2, lambda y: self._feed_forward(y, self.dropout2))

    def _beside(self, x: Tensor, norm: Any, block: Callable[[Tensor], Tensor]) -> Tensor:
        """A residual block, its norm first or last."""
        y: Tensor = x + block(norm(x)) if self.settings["norm_first"] else norm(x + block(x))
        return y

    def _attend_itself(
        self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Tensor:
        named = {"attn_mask": mask, "key_padding_mask": padding, "is_causal": is_causal}
        y: Tensor = self.dropout1(self.self_attn(x, x, x, need_weights=False, **named)[0])
        return y

    def _feed_forward(self, x: Tensor, last_dropout: Any) -> Tensor:
        y: Tensor = last_dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        return y


class TransformerDecoderLayer(TransformerEncoderLayer):
    """The same with a second input, the memory that it attends to."""

    def forward(  # type: ignore[override]
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        others = {
            "attn_mask": memory_mask,
            "key_padding_mask": memory_key_padding_mask,
            "is_causal": memory_is_causal,
            "need_weights": False,
        }

        def attend(x: Tensor) -> Tensor:
            y: Tensor = self.dropout2(self.multihead_attn(x, memory, memory, **others)[0])
            return y

        x = self._beside(tgt, self.norm1, lambda y: self._attend_itself(y, *own))
        x = self._beside(x, self.norm2, attend)
        return self._beside(x, self.norm3, lambda y: self._feed_forward(y, self.dropout3))


class Stack(Fused):
    """Layers of one kind, then a norm if there is one."""

    layers: nn.ModuleList
    norm: LayerNorm | None

    @classmethod
    def _of(
        cls, members: Members, kind: type[nn.Module], make: Callable[[Members], Fused], **rest: Any
    ) -> Stack:
        stack = cls(**rest)
        layers = range(members.same("num_layers"))
        stack.layers = nn.ModuleList(make(members.part(f"layers.{n}", kind)) for n in layers)
        has_norm = members.modules[0]._modules.get("norm") is not None
        stack.norm = LayerNorm.of(members.part("norm", nn.LayerNorm)) if has_norm else None
        return stack

    def _run(self, x: Tensor, *args: Any, **named: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, *args, **named)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(Stack):
    """Equals F of torch's. Padding masks are refused where torch may use nested tensors: those put
    zeros at padded places when no gradients are wanted, and only then."""

    @classmethod
    def of(cls, members: Members) -> Stack:
        nested = members.same("use_nested_tensor")
        make = TransformerEncoderLayer.of
        return cls._of(members, nn.TransformerEncoderLayer, make, use_nested_tensor=nested)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        if src_key_padding_mask is not None and self.settings["use_nested_tensor"]:
            raise Refused("a padding mask with enable_nested_tensor=True has no fused rule")
        hint = bool(is_causal)
        return self._run(
            src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=hint
        )


class TransformerDecoder(Stack):
    """Equals F of torch's."""

    @classmethod
    def of(cls, members: Members) -> Stack:
        return cls._of(members, nn.TransformerDecoderLayer, TransformerDecoderLayer.of)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        return self._run(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=bool(tgt_is_causal),
            memory_is_causal=memory_is_causal,
        )


def activation_of(members: Members) -> Any:
    """The function or module between the two linear layers."""
    first = members.modules[0].activation
    if isinstance(first, nn.Module):
        if type(first) not in ELEMENTWISE:
            raise Refused(f"{members.where}: activation {type(first).__name__} has no fused rule")
        return Elementwise.of(members.part("activation", type(first)))
    if members.same("activation") not in PLAIN:
        raise Refused(f"{members.where}: its activation has no fused rule")
    return first
