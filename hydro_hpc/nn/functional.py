"""Functions of `torch.nn.functional` for tensors [slots, *unfused shape].

F slots, B batch, I/O in and out features or channels, H/W height and width. The logical layout is
always slots first; the memory may be batch first, which is what grouped convolutions want.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.shapes import fold, inner_dim, unfold


def linear(x_FBI: Tensor, weight_FOI: Tensor, bias_FO: Tensor | None = None) -> Tensor:
    """[F, ..., I] -> [F, ..., O]"""
    batch = x_FBI.shape[1:-1]
    x = x_FBI if x_FBI.ndim == 3 else x_FBI.reshape(x_FBI.size(0), math.prod(batch), -1)
    weight_FIO = weight_FOI.transpose(1, 2)
    if bias_FO is None:
        y_FBO = torch.bmm(x, weight_FIO)
    else:
        y_FBO = torch.baddbmm(bias_FO.unsqueeze(1), x, weight_FIO)
    return y_FBO if x_FBI.ndim == 3 else y_FBO.unflatten(1, batch) if batch else y_FBO.squeeze(1)


def conv2d(
    x_FBIHW: Tensor,
    weight_FOIHW: Tensor,
    bias_FO: Tensor | None,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    """[F, B, I, H, W] -> [F, B, O, H', W']; one convolution with F times the groups."""
    slots, out_channels = weight_FOIHW.shape[:2]
    weight = weight_FOIHW.flatten(0, 1)
    bias = None if bias_FO is None else bias_FO.flatten()
    if groups == 1 and x_FBIHW.stride(0) == 0 and not x_FBIHW.requires_grad:
        x, num_groups = x_FBIHW[0], 1  # every slot sees the same batch: more output channels
    else:
        x, num_groups = x_FBIHW.transpose(0, 1).flatten(1, 2), slots * groups
    y = F.conv2d(x, weight, bias, stride, padding, dilation, num_groups)
    return y.reshape(y.size(0), slots, out_channels, *y.shape[2:]).transpose(0, 1)


def batch_norm(
    x_FBC: Tensor,
    mean_FC: Tensor | None,
    var_FC: Tensor | None,
    weight_FC: Tensor | None,
    bias_FC: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """[F, B, C, ...] -> the same; the running statistics are updated in place."""
    slots, channels = x_FBC.size(0), x_FBC.size(2)
    y = F.batch_norm(
        x_FBC.transpose(0, 1).flatten(1, 2),
        None if mean_FC is None else mean_FC.view(-1),
        None if var_FC is None else var_FC.view(-1),
        None if weight_FC is None else weight_FC.flatten(),
        None if bias_FC is None else bias_FC.flatten(),
        training,
        momentum,
        eps,
    )
    return y.reshape(y.size(0), slots, channels, *y.shape[2:]).transpose(0, 1)


def layer_norm(
    x_FBD: Tensor,
    weight_FD: Tensor | None,
    bias_FD: Tensor | None,
    *,
    shape: Sequence[int],
    eps: float,
) -> Tensor:
    """[F, ..., *shape] -> the same"""
    if x_FBD.ndim - 1 < len(shape):
        raise ValueError(f"layer_norm over {list(shape)} of a tensor {list(x_FBD.shape[1:])}")
    between = [1] * (x_FBD.ndim - 1 - len(shape))
    y = F.layer_norm(x_FBD, list(shape), None, None, eps)
    if weight_FD is not None:
        y = y * weight_FD.reshape(weight_FD.size(0), *between, *shape)
    if bias_FD is not None:
        y = y + bias_FD.reshape(bias_FD.size(0), *between, *shape)
    return y


def embedding(index_FB: Tensor, weight_FVD: Tensor, *, padding_idx: int | None) -> Tensor:
    """[F, ...] -> [F, ..., D]; a look-up per slot, so that an index beyond the vocabulary is an
    error as it is unfused, and never a neighbour's row."""
    rows = zip(index_FB.unbind(0), weight_FVD.unbind(0), strict=True)
    return torch.stack([F.embedding(index, weight, padding_idx) for index, weight in rows])


def max_pool2d(x_FBCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    x, batch_first = fold(x_FBCHW)
    return unfold(F.max_pool2d(x, *args, **kwargs), x_FBCHW.size(0), batch_first=batch_first)


def avg_pool2d(x_FBCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    x, batch_first = fold(x_FBCHW)
    return unfold(F.avg_pool2d(x, *args, **kwargs), x_FBCHW.size(0), batch_first=batch_first)


def adaptive_avg_pool2d(x_FBCHW: Tensor, output_size: Any) -> Tensor:
    x, batch_first = fold(x_FBCHW)
    return unfold(F.adaptive_avg_pool2d(x, output_size), x_FBCHW.size(0), batch_first=batch_first)


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
