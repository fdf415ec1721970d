"""F linear layers as one batched matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class Linear(Fused):
    """[F, ..., I] -> [F, ..., O], with weight_FOI and bias_FO; equals F `torch.nn.Linear`."""

    has_own_backward = True

    def __init__(self, weight_FOI: nn.Parameter, bias_FO: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight_FOI
        self.bias = bias_FO

    @classmethod
    def of(cls, members: Members) -> Linear:
        return cls(members.parameter("weight"), members.optional_parameter("bias"))

    def forward(self, x_FBI: Tensor) -> Tensor:
        is_autocast = torch.is_autocast_enabled(x_FBI.device.type)
        if x_FBI.ndim < 3 or is_autocast or not torch.is_grad_enabled():
            return functional.linear(x_FBI, self.weight, self.bias)
        batch = x_FBI.shape[1:-1]
        y_FBO: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
            x_FBI if x_FBI.ndim == 3 else x_FBI.flatten(1, -2),
            self.weight,
            self.bias,
            self.before,
            self.between,
        )
        return y_FBO if x_FBI.ndim == 3 else y_FBO.view(y_FBO.size(0), *batch, -1)


class _Linear(torch.autograd.Function):
    """The same numbers as autograd's own, with a place to pause between the two products of
    backward, which would be the longest unit of most networks. The weight's gradient comes in the
    weight's own layout; autograd's comes transposed, and copying it takes as long as the product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_FBI: Tensor,
        weight_FOI: Tensor,
        bias_FO: Tensor | None,
        before: Callable[[], None] | None,
        between: Callable[[], None] | None,
    ) -> Tensor:
        ctx.save_for_backward(x_FBI, weight_FOI)
        ctx.before = before
        ctx.between = between
        return functional.linear(x_FBI, weight_FOI, bias_FO)

    @staticmethod
    def backward(ctx: Any, grad_FBO: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.before is not None:
            ctx.before()
        x_FBI, weight_FOI = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if wants_bias:
            grad_bias = grad_FBO.sum(1)
        if wants_weight:
            grad_weight = torch.bmm(grad_FBO.transpose(1, 2), x_FBI)
        if wants_x:
            if wants_weight and ctx.between is not None:
                ctx.between()
            grad_x = torch.bmm(grad_FBO, weight_FOI)
        return grad_x, grad_weight, grad_bias, None, None


class Bilinear(Fused):
    """[F, ..., I] and [F, ..., J] -> [F, ..., O]; equals F `torch.nn.Bilinear`."""

    def __init__(self, weight_FOIJ: nn.Parameter, bias_FO: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight_FOIJ, bias_FO

    @classmethod
    def of(cls, members: Members) -> Bilinear:
        return cls(members.parameter("weight"), members.optional_parameter("bias"))

    def forward(self, a_FBI: Tensor, b_FBJ: Tensor) -> Tensor:
        return functional.bilinear(a_FBI, b_FBJ, self.weight, self.bias)
