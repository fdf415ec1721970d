"""F embedding tables."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members


class Embedding(Fused):
    """[F, ...] whole numbers -> [F, ..., D], from weight_FVD; equals F `torch.nn.Embedding`."""

    names: ClassVar[tuple[str, ...]] = ("padding_idx", "max_norm", "norm_type")

    def __init__(self, weight_FVD: nn.Parameter, **settings: Any) -> None:
        super().__init__(**settings)
        self.weight = weight_FVD

    @classmethod
    def of(cls, members: Members) -> Embedding:
        members.require("scale_grad_by_freq", False)
        members.require("sparse", False)
        settings = {name: members.same(name) for name in cls.names}
        return cls(members.parameter("weight"), **settings)

    def forward(self, index_FB: Tensor) -> Tensor:
        return functional.embedding(index_FB, self.weight, **self.settings)


class EmbeddingBag(Embedding):
    """[F, bags, N] whole numbers -> [F, bags, D]; equals F `torch.nn.EmbeddingBag` on bags of one
    length."""

    names = ("padding_idx", "max_norm", "norm_type", "mode")

    def forward(
        self,
        index_FBN: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        return functional.embedding_bag(
            index_FBN,
            self.weight,
            offsets,
            per_sample_weights=per_sample_weights,
            **self.settings,
        )
