"""F convolutions as one with F times the groups."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class Conv2d(Fused):
    """[F, B, I, H, W] -> [F, B, O, H', W'], or the same without B; equals F `torch.nn.Conv2d`."""

    def __init__(
        self, weight_FOIHW: nn.Parameter, bias_FO: nn.Parameter | None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.weight = weight_FOIHW
        self.bias = bias_FO

    @classmethod
    def of(cls, members: Members) -> Conv2d:
        members.require("padding_mode", "zeros")
        names = ("stride", "padding", "dilation", "groups")
        settings = {name: members.same(name) for name in names}
        return cls(members.parameter("weight"), members.optional_parameter("bias"), **settings)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self.forward(x.unsqueeze(1)).squeeze(1)
        return functional.conv2d(x, self.weight, self.bias, **self.settings)
