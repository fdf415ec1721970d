"""F convolutions as one with F times the groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn.shapes import fold_channels, unfold_channels

Convolution = Callable[..., Tensor]


def _grouped(convolve: Convolution, rank: int) -> Convolution:
    """The fused form of a convolution over `rank` axes."""

    def apply(
        x_FBI: Tensor,
        weight_FOI: Tensor,
        bias_FO: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """[F, B, I, ...] -> [F, B, O, ...], or the same without B"""
        if x_FBI.ndim == rank + 2:
            alone = apply(
                x_FBI.unsqueeze(1), weight_FOI, bias_FO, stride, padding, dilation, groups
            )
            return alone.squeeze(1)
        slots = weight_FOI.size(0)
        weight = weight_FOI.flatten(0, 1)
        bias = None if bias_FO is None else bias_FO.flatten()
        if groups == 1 and x_FBI.stride(0) == 0 and not x_FBI.requires_grad:
            x, num_groups = x_FBI[0], 1  # every slot sees the same batch: more output channels
        else:
            x, num_groups = fold_channels(x_FBI), slots * groups
        y = convolve(x, weight, bias, stride, padding, dilation, num_groups)
        return unfold_channels(y, slots)

    return apply


def _grouped_transpose(convolve: Convolution, rank: int) -> Convolution:
    """The fused form of a transposed convolution, whose weight has its input channels first."""

    def apply(
        x_FBI: Tensor,
        weight_FIO: Tensor,
        bias_FO: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        """[F, B, I, ...] -> [F, B, O, ...], or the same without B"""
        settings = (stride, padding, output_padding)
        if x_FBI.ndim == rank + 2:
            batch = x_FBI.unsqueeze(1)
            return apply(batch, weight_FIO, bias_FO, *settings, groups, dilation).squeeze(1)
        slots = weight_FIO.size(0)
        weight = weight_FIO.flatten(0, 1)
        bias = None if bias_FO is None else bias_FO.flatten()
        y = convolve(fold_channels(x_FBI), weight, bias, *settings, slots * groups, dilation)
        return unfold_channels(y, slots)

    return apply


conv1d: Final = _grouped(F.conv1d, 1)
conv2d: Final = _grouped(F.conv2d, 2)
conv3d: Final = _grouped(F.conv3d, 3)
conv_transpose1d: Final = _grouped_transpose(F.conv_transpose1d, 1)
conv_transpose2d: Final = _grouped_transpose(F.conv_transpose2d, 2)
conv_transpose3d: Final = _grouped_transpose(F.conv_transpose3d, 3)
