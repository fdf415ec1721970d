"""F convolutions as one with F times the groups."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused


class Conv(Fused):
    """[F, B, I, ...] -> [F, B, O, ...], or the same without B; equals F `torch.nn.Conv1d`, `2d` or
    `3d`. `edges` is what is padded beforehand, in mode `padding_mode`, if not with zeros."""

    def __init__(
        self,
        weight_FOI: nn.Parameter,
        bias_FO: nn.Parameter | None,
        *,
        padding_mode: str = "zeros",
        edges: tuple[int, ...] = (),
        **settings: Any,
    ) -> None:
        super().__init__(padding_mode=padding_mode, edges=edges, **settings)
        self.weight, self.bias = weight_FOI, bias_FO
        self.arguments = settings
        self.name = f"conv{weight_FOI.ndim - 3}d"

    @classmethod
    def of(cls, members: Members) -> Conv:
        settings = {name: members.same(name) for name in ("stride", "padding", "dilation")}
        mode, edges = members.same("padding_mode"), ()
        if mode != "zeros":
            settings["padding"] = 0
            edges = tuple(members.same("_reversed_padding_repeated_twice"))
        return cls(
            members.parameter("weight"),
            members.optional_parameter("bias"),
            padding_mode=mode,
            edges=edges,
            groups=members.same("groups"),
            **settings,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.settings["edges"]:
            x = functional.pad(x, self.settings["edges"], self.settings["padding_mode"])
        y: Tensor = getattr(functional, self.name)(x, self.weight, self.bias, **self.arguments)
        return y


class ConvTranspose(Fused):
    """[F, B, I, ...] -> [F, B, O, ...], or the same without B; equals F of `ConvTranspose1d`, `2d`
    or `3d`."""

    def __init__(
        self, weight_FIO: nn.Parameter, bias_FO: nn.Parameter | None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.weight, self.bias = weight_FIO, bias_FO
        self.name = f"conv_transpose{weight_FIO.ndim - 3}d"

    @classmethod
    def of(cls, members: Members) -> ConvTranspose:
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        settings = {name: members.same(name) for name in names}
        return cls(members.parameter("weight"), members.optional_parameter("bias"), **settings)

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        if output_size is not None:
            raise Refused("a transposed convolution with output_size has no fused rule")
        y: Tensor = getattr(functional, self.name)(x, self.weight, self.bias, **self.settings)
        return y
