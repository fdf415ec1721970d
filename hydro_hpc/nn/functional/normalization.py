"""Normalisation within each slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.shapes import fold, fold_channels, unfold, unfold_channels


def batch_norm(
    x_FBC: Tensor,
    mean_FC: Tensor | None,
    var_FC: Tensor | None,
    weight_FC: Tensor | None = None,
    bias_FC: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """[F, B, C, ...] -> the same; the running statistics are updated in place. `momentum` may be a
    tensor [F]."""
    if isinstance(momentum, Tensor):
        return _batch_norm_by_slot(
            x_FBC, mean_FC, var_FC, weight_FC, bias_FC, training, momentum, eps
        )
    y = F.batch_norm(
        fold_channels(x_FBC),
        None if mean_FC is None else mean_FC.view(-1),
        None if var_FC is None else var_FC.view(-1),
        _flat(weight_FC),
        _flat(bias_FC),
        training,
        momentum,
        eps,
    )
    return unfold_channels(y, x_FBC.size(0))


def _batch_norm_by_slot(
    x_FBC: Tensor,
    mean_FC: Tensor | None,
    var_FC: Tensor | None,
    weight_FC: Tensor | None,
    bias_FC: Tensor | None,
    training: bool,
    momentum_F: Tensor,
    eps: float,
) -> Tensor:
    """A momentum per slot: the batch's own statistics are found apart, then mixed in."""
    if not training or mean_FC is None or var_FC is None:
        return batch_norm(x_FBC, mean_FC, var_FC, weight_FC, bias_FC, training, 0.0, eps)
    batch_mean, batch_var = torch.zeros_like(mean_FC), torch.zeros_like(var_FC)
    y = batch_norm(x_FBC, batch_mean, batch_var, weight_FC, bias_FC, True, 1.0, eps)
    share_F1 = momentum_F.to(mean_FC).unsqueeze(1)
    mean_FC.mul_(1 - share_F1).add_(share_F1 * batch_mean)
    var_FC.mul_(1 - share_F1).add_(share_F1 * batch_var)
    return y


def instance_norm(
    x_FBC: Tensor,
    mean_FC: Tensor | None = None,
    var_FC: Tensor | None = None,
    weight_FC: Tensor | None = None,
    bias_FC: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """[F, B, C, ...] -> the same; the running statistics are updated in place."""
    y = F.instance_norm(
        fold_channels(x_FBC),
        None if mean_FC is None else mean_FC.view(-1),
        None if var_FC is None else var_FC.view(-1),
        _flat(weight_FC),
        _flat(bias_FC),
        use_input_stats,
        momentum,
        eps,
    )
    return unfold_channels(y, x_FBC.size(0))


def group_norm(
    x_FBC: Tensor,
    num_groups: int,
    weight_FC: Tensor | None = None,
    bias_FC: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """[F, B, C, ...] -> the same; one call with F times the groups where the memory is batch first,
    as after a convolution."""
    slots, channels = x_FBC.size(0), x_FBC.size(2)
    if channels % num_groups:
        raise ValueError(f"group_norm of {channels} channels in {num_groups} groups")
    x, batch_first = fold(x_FBC)
    if batch_first:
        y = F.group_norm(
            fold_channels(x_FBC), slots * num_groups, _flat(weight_FC), _flat(bias_FC), eps
        )
        return unfold_channels(y, slots)
    y = unfold(F.group_norm(x, num_groups, None, None, eps), slots, batch_first=False)
    return _scaled(y, weight_FC, bias_FC, [slots, 1, channels, *[1] * (x_FBC.ndim - 3)])


def layer_norm(
    x_FBD: Tensor,
    weight_FD: Tensor | None,
    bias_FD: Tensor | None,
    *,
    shape: Sequence[int],
    eps: float,
) -> Tensor:
    """[F, ..., *shape] -> the same"""
    view = _trailing(x_FBD, shape)
    if weight_FD is None or bias_FD is None or torch.is_autocast_enabled(x_FBD.device.type):
        y = F.layer_norm(x_FBD, list(shape), None, None, eps)
        return _scaled(y, weight_FD, bias_FD, view)
    weight, bias = weight_FD.reshape(view), bias_FD.reshape(view)
    ours: Tensor = _ScaledLayerNorm.apply(x_FBD, weight, bias, list(shape), eps)  # type: ignore[no-untyped-call]
    return ours


class _ScaledLayerNorm(torch.autograd.Function):
    """Keeps for backward what torch's own layer norm keeps: the input, and not what it scales."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shape: list[int], eps: float
    ) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, shape, None, None, eps)
        ctx.save_for_backward(x, mean, rstd, weight)
        ctx.shape, ctx.eps = shape, eps
        return torch.addcmul(bias, y, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if wants_bias:
            grad_bias = grad.sum_to_size(weight.shape)
        if wants_weight:
            y = torch.native_layer_norm(x, ctx.shape, None, None, ctx.eps)[0]
            grad_weight = (grad * y).sum_to_size(weight.shape)
        if wants_x:
            only_x = [True, False, False]
            grad_x, _, _ = torch.ops.aten.native_layer_norm_backward(
                grad * weight, x, ctx.shape, mean, rstd, None, None, only_x
            )
        return grad_x, grad_weight, grad_bias, None, None


def rms_norm(
    x_FBD: Tensor, weight_FD: Tensor | None, *, shape: Sequence[int], eps: float | None
) -> Tensor:
    """[F, ..., *shape] -> the same"""
    view = _trailing(x_FBD, shape)
    return _scaled(F.rms_norm(x_FBD, list(shape), None, eps), weight_FD, None, view)


def _trailing(x_FBD: Tensor, shape: Sequence[int]) -> list[int]:
    """How parameters [F, *shape] broadcast against `x_FBD`."""
    between = x_FBD.ndim - 1 - len(shape)
    if between < 0:
        raise ValueError(f"a norm over {list(shape)} of a tensor {list(x_FBD.shape[1:])}")
    return [-1, *[1] * between, *shape]


def _scaled(
    y: Tensor, weight_F: Tensor | None, bias_F: Tensor | None, view: Sequence[int]
) -> Tensor:
    weight = None if weight_F is None else weight_F.reshape(view)
    bias = None if bias_F is None else bias_F.reshape(view)
    if weight is not None and bias is not None:
        return torch.addcmul(bias, y, weight)
    if weight is not None:
        return y * weight
    return y if bias is None else y + bias


def _flat(parameter_FC: Tensor | None) -> Tensor | None:
    return None if parameter_FC is None else parameter_FC.flatten()
