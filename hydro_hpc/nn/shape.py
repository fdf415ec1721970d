"""Modules that only reshape."""

from __future__ import annotations

from torch import Tensor

from hydro_hpc.nn import shapes
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class Flatten(Fused):
    """[F, ...] -> [F, ...] with unfused axes `start_dim` to `end_dim` as one."""

    @classmethod
    def of(cls, members: Members) -> Flatten:
        return cls(start_dim=members.same("start_dim"), end_dim=members.same("end_dim"))

    def forward(self, x: Tensor) -> Tensor:
        return shapes.flatten(x, **self.settings)


class Unflatten(Fused):
    """[F, ...] -> [F, ...] with unfused axis `dim` as several of `sizes`."""

    @classmethod
    def of(cls, members: Members) -> Unflatten:
        return cls(dim=members.same("dim"), sizes=members.same("unflattened_size"))

    def forward(self, x: Tensor) -> Tensor:
        return shapes.unflatten(x, **self.settings)


class Identity(Fused):
    """[F, ...] -> the same tensor."""

    @classmethod
    def of(cls, _members: Members) -> Identity:
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        return x
