"""Padding of the last axes."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members

MODES: Final[dict[type[nn.Module], str]] = {
    nn.CircularPad1d: "circular",
    nn.CircularPad2d: "circular",
    nn.CircularPad3d: "circular",
    nn.ConstantPad1d: "constant",
    nn.ConstantPad2d: "constant",
    nn.ConstantPad3d: "constant",
    nn.ReflectionPad1d: "reflect",
    nn.ReflectionPad2d: "reflect",
    nn.ReflectionPad3d: "reflect",
    nn.ReplicationPad1d: "replicate",
    nn.ReplicationPad2d: "replicate",
    nn.ReplicationPad3d: "replicate",
    nn.ZeroPad1d: "constant",
    nn.ZeroPad2d: "constant",
    nn.ZeroPad3d: "constant",
}


class Pad(Fused):
    """[F, ...] -> [F, ...] with longer last axes; equals F of torch's padding modules."""

    @classmethod
    def of(cls, members: Members) -> Pad:
        mode = MODES[type(members.modules[0])]
        settings: dict[str, Any] = {"pad": members.same("padding"), "mode": mode}
        if mode == "constant":
            settings["value"] = members.same("value")
        return cls(**settings)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, **self.settings)
