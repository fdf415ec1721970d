"""A model with a width, and the space in which studies of its surrogates search."""

from __future__ import annotations

from typing import ClassVar, Final

from torch import Tensor, nn

from hydro_hpc.study.space import log_uniform

TARGET, WIDTH = 32, 8
SPACE: Final = {"lr": log_uniform(1e-3, 1e-1)}


class Wide(nn.Module):
    """[batch, 4] -> logits [batch, 2]."""

    built: ClassVar[list[int]] = []

    def __init__(self, width: int = TARGET, depth: int = 1, slope: float = 0.1) -> None:
        super().__init__()
        self.built.append(width)
        hidden = [nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(slope)) for _ in range(depth)]
        self.layers = nn.Sequential(nn.Linear(4, width), *hidden, nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits
