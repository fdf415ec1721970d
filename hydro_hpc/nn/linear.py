"""F linear layers as one batched matrix product."""

from __future__ import annotations

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class Linear(Fused):
    """[F, ..., I] -> [F, ..., O], with weight_FOI and bias_FO; equals F `torch.nn.Linear`."""

    def __init__(self, weight_FOI: nn.Parameter, bias_FO: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight_FOI
        self.bias = bias_FO

    @classmethod
    def of(cls, members: Members) -> Linear:
        return cls(members.parameter("weight"), members.optional_parameter("bias"))

    def forward(self, x_FBI: Tensor) -> Tensor:
        return functional.linear(x_FBI, self.weight, self.bias)
