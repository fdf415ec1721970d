"""Linear and bilinear maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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


def bilinear(
    a_FBI: Tensor, b_FBJ: Tensor, weight_FOIJ: Tensor, bias_FO: Tensor | None = None
) -> Tensor:
    """[F, ..., I] and [F, ..., J] -> [F, ..., O]"""
    slots, outputs, inputs, others = weight_FOIJ.shape
    batch = a_FBI.shape[1:-1]
    if b_FBJ.shape[1:-1] != batch:
        raise ValueError(f"bilinear of batches {list(batch)} and {list(b_FBJ.shape[1:-1])}")
    a, b = a_FBI.reshape(slots, -1, inputs), b_FBJ.reshape(slots, -1, others)
    half = torch.bmm(a, weight_FOIJ.transpose(1, 2).reshape(slots, inputs, outputs * others))
    y = torch.matmul(half.unflatten(2, (outputs, others)), b.unsqueeze(3)).squeeze(3)
    if bias_FO is not None:
        y = y + bias_FO.unsqueeze(1)
    return y.reshape(slots, *batch, outputs)
