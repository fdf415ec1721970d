"""F embedding tables."""

from __future__ import annotations

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class Embedding(Fused):
    """[F, ...] whole numbers -> [F, ..., D], from weight_FVD; equals F `torch.nn.Embedding`."""

    def __init__(self, weight_FVD: nn.Parameter, *, padding_idx: int | None) -> None:
        super().__init__(padding_idx=padding_idx)
        self.weight = weight_FVD

    @classmethod
    def of(cls, members: Members) -> Embedding:
        members.require("max_norm", None)
        members.require("scale_grad_by_freq", False)
        members.require("sparse", False)
        return cls(members.parameter("weight"), padding_idx=members.same("padding_idx"))

    def forward(self, index_FB: Tensor) -> Tensor:
        return functional.embedding(index_FB, self.weight, **self.settings)
