"""Distances between the rows of two inputs."""

from __future__ import annotations

from torch import Tensor

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class CosineSimilarity(Fused):
    """Two [F, ...] -> [F, ...] without unfused axis `dim`; equals F of torch's."""

    @classmethod
    def of(cls, members: Members) -> CosineSimilarity:
        return cls(dim=members.same("dim"), eps=members.same("eps"))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return functional.cosine_similarity(a, b, **self.settings)


class PairwiseDistance(Fused):
    """Two [F, ..., D] -> [F, ...]; equals F of torch's."""

    @classmethod
    def of(cls, members: Members) -> PairwiseDistance:
        eps, keepdim = members.same("eps"), members.same("keepdim")
        return cls(p=members.same("norm"), eps=eps, keepdim=keepdim)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return functional.pairwise_distance(a, b, **self.settings)
