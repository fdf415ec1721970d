"""Activations: elementwise ones, whose slots cannot meet, and those along an unfused axis."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.randomness import SlotStreams

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

# Modules along one axis `dim`, and their functions.
ALONG_AN_AXIS: Final[dict[type[nn.Module], str]] = {
    nn.GLU: "glu",
    nn.LogSoftmax: "log_softmax",
    nn.Softmax: "softmax",
    nn.Softmax2d: "softmax",
    nn.Softmin: "softmin",
}


class Elementwise(Fused):
    """[F, ...] -> the same: one torch activation on all slots at once.

    Autograd takes twice as long over a write into a view, as convolutions and norms return them: so
    there none is made if nobody else reads what would be overwritten (`is_last_reader`).
    """

    def __init__(self, activation: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        apart = copy.copy(activation)
        if "inplace" in settings:
            apart.inplace = False  # type: ignore[assignment]
        self.activation, self.activation_apart = activation.forward, apart.forward

    @classmethod
    def of(cls, members: Members) -> Elementwise:
        names = ELEMENTWISE[type(members.modules[0])]
        return cls(members.modules[0], **{name: members.same(name) for name in names})

    def forward(self, x: Tensor, *, is_last_reader: bool = False) -> Tensor:
        call = self.activation_apart if is_last_reader and x._is_view() else self.activation
        y: Tensor = call(x)
        return y


class Softmax(Fused):
    """[F, ...] -> the same: (log-)softmax, softmin or GLU along unfused axis `dim` of each slot."""

    def __init__(self, dim: int, function: Callable[..., Tensor]) -> None:
        super().__init__(dim=dim)
        self.function = function

    @classmethod
    def of(cls, members: Members) -> Softmax:
        kind = type(members.modules[0])
        dim = -3 if kind is nn.Softmax2d else members.same("dim")
        if not isinstance(dim, int):
            raise Refused(f"{members.where}: the axis is left to torch to guess; give dim=")
        return cls(dim, getattr(functional, ALONG_AN_AXIS[kind]))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(x, self.settings["dim"])
        return y


class PReLU(Fused):
    """[F, B, C, ...] -> the same, with weight_FC; equals F `torch.nn.PReLU`."""

    def __init__(self, weight_FC: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight_FC

    @classmethod
    def of(cls, members: Members) -> PReLU:
        return cls(members.parameter("weight"))

    def forward(self, x_FBC: Tensor) -> Tensor:
        return functional.prelu(x_FBC, self.weight)


class RReLU(Fused):
    """[F, ...] -> the same; slopes are drawn from each trial's own stream in training."""

    def __init__(self, streams: SlotStreams, **settings: Any) -> None:
        super().__init__(**settings)
        self.streams = streams

    @classmethod
    def of(cls, members: Members) -> RReLU:
        settings = {name: members.same(name) for name in ("lower", "upper", "inplace")}
        return cls(members.streams, **settings)

    def forward(self, x: Tensor) -> Tensor:
        lower, upper = self.settings["lower"], self.settings["upper"]
        if not self.training:
            return nn.functional.leaky_relu(x, (lower + upper) / 2, self.settings["inplace"])
        with torch.no_grad():
            slopes = torch.stack([self._slopes(row, n) for n, row in enumerate(x.unbind(0))])
        return x.mul_(slopes) if self.settings["inplace"] else x * slopes

    def _slopes(self, row: Tensor, slot: int) -> Tensor:
        """1 where positive, else one draw each, as torch makes them."""
        slopes = torch.empty_like(row, memory_format=torch.contiguous_format)
        lower, upper = self.settings["lower"], self.settings["upper"]
        stream = self.streams.generator(slot)
        draw = torch.ops.aten.rrelu_with_noise
        draw(row.detach(), slopes, lower, upper, training=True, generator=stream)
        return slopes
