"""Pooling over height and width; slots and batch are folded into one axis, which pooling leaves."""

from __future__ import annotations

from torch import Tensor

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class MaxPool2d(Fused):
    """[F, B, C, H, W] -> [F, B, C, H', W'], or without B; equals F `torch.nn.MaxPool2d`."""

    @classmethod
    def of(cls, members: Members) -> MaxPool2d:
        members.require("return_indices", False)
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return cls(**{name: members.same(name) for name in names})

    def forward(self, x_FBCHW: Tensor) -> Tensor:
        return functional.max_pool2d(x_FBCHW, **self.settings)


class AvgPool2d(Fused):
    """[F, B, C, H, W] -> [F, B, C, H', W'], or without B; equals F `torch.nn.AvgPool2d`."""

    @classmethod
    def of(cls, members: Members) -> AvgPool2d:
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
        settings = {name: members.same(name) for name in names}
        return cls(**settings, divisor_override=members.same("divisor_override"))

    def forward(self, x_FBCHW: Tensor) -> Tensor:
        return functional.avg_pool2d(x_FBCHW, **self.settings)


class AdaptiveAvgPool2d(Fused):
    """[F, B, C, H, W] -> [F, B, C, *output_size], or without B; equals F of torch's."""

    @classmethod
    def of(cls, members: Members) -> AdaptiveAvgPool2d:
        return cls(output_size=members.same("output_size"))

    def forward(self, x_FBCHW: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x_FBCHW, **self.settings)
