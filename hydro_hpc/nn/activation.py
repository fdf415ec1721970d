"""Activations: elementwise ones, whose slots cannot meet, and softmax along an unfused axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused

# Modules without parameters whose output element depends on the same input element alone, with the
# settings that must be equal in all slots.
ELEMENTWISE: Final[dict[type[nn.Module], tuple[str, ...]]] = {
    nn.CELU: ("alpha", "inplace"),
    nn.ELU: ("alpha", "inplace"),
    nn.GELU: ("approximate",),
    nn.Hardshrink: ("lambd",),
    nn.Hardsigmoid: ("inplace",),
    nn.Hardswish: ("inplace",),
    nn.Hardtanh: ("min_val", "max_val", "inplace"),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.LogSigmoid: (),
    nn.Mish: ("inplace",),
    nn.ReLU: ("inplace",),
    nn.ReLU6: ("min_val", "max_val", "inplace"),
    nn.SELU: ("inplace",),
    nn.SiLU: ("inplace",),
    nn.Sigmoid: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Softshrink: ("lambd",),
    nn.Softsign: (),
    nn.Tanh: (),
    nn.Tanhshrink: (),
    nn.Threshold: ("threshold", "value", "inplace"),
}


class Elementwise(Fused):
    """[F, ...] -> the same: one torch activation on all slots at once."""

    def __init__(self, activation: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.activation = activation.forward

    @classmethod
    def of(cls, members: Members) -> Elementwise:
        names = ELEMENTWISE[type(members.modules[0])]
        return cls(members.modules[0], **{name: members.same(name) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(x)
        return y


class Softmax(Fused):
    """[F, ...] -> the same, (log-)softmax along unfused axis `dim` within each slot."""

    def __init__(self, dim: int, function: Callable[..., Tensor]) -> None:
        super().__init__(dim=dim)
        self.function = function

    @classmethod
    def of(cls, members: Members) -> Softmax:
        dim = members.same("dim")
        if not isinstance(dim, int):
            raise Refused(f"{members.where}: the axis is left to torch to guess; give dim=")
        is_log = isinstance(members.modules[0], nn.LogSoftmax)
        return cls(dim, functional.log_softmax if is_log else functional.softmax)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(x, self.settings["dim"])
        return y
