"""Modules that only reshape."""

from __future__ import annotations

from torch import Tensor, nn

from hydro_hpc.nn import shapes
from hydro_hpc.nn.members import Members


class Flatten(nn.Module):
    """[F, ...] -> [F, ...] with unfused axes `start_dim` to `end_dim` as one."""

    def __init__(self, start_dim: int, end_dim: int) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    @classmethod
    def of(cls, members: Members) -> Flatten:
        return cls(members.same("start_dim"), members.same("end_dim"))

    def forward(self, x: Tensor) -> Tensor:
        return shapes.flatten(x, self.start_dim, self.end_dim)


class Identity(nn.Module):
    """[F, ...] -> the same tensor."""

    @classmethod
    def of(cls, _members: Members) -> Identity:
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        return x
