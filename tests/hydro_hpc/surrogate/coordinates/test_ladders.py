"""Surrogates of a ladder are those that `shrink` makes one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.coordinates.ladders import BuiltLadder

WIDTHS = (16, 32, 64, 16)
ROWS = torch.randn(4, 8)


class Raw(nn.Module):
    """rows [B, 8] -> [B, 3], by a product that only a call shows."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.square = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.last = nn.Linear(width, 3)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.first(rows).relu() @ self.square
        output: Tensor = self.last(hidden.relu())
        return output


def test_a_ladder_follows_its_target_once_and_gives_what_shrink_gives() -> None:
    called: list[int] = []

    class Counted(Raw):
        def forward(self, rows: Tensor) -> Tensor:
            if self.first.out_features == 128 and type(rows) is not Tensor:
                called.append(len(rows))  # in numbers, not in values
            return super().forward(rows)

    ladder = BuiltLadder(Counted, ROWS)
    for width in WIDTHS:
        found, right = ladder(width), shrink(Raw, width=width, example=ROWS)
        assert (found.rules, found.initial.keys()) == (right.rules, right.initial.keys())
    assert len(called) == 1
