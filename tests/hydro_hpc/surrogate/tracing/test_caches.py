"""Models whose code keeps things between calls, beside its modules."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink

ROWS = torch.randn(4, 8)
KEPT: dict[int, Tensor] = {}


@functools.lru_cache(maxsize=8)
def slopes(size: int) -> Tensor:
    return torch.full((size,), 0.5)


def places(rows: int) -> Tensor:
    """Kept by a number that is no width."""
    if rows not in KEPT:
        KEPT[rows] = torch.zeros(rows, 1)
    return KEPT[rows]


class Cached(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.into, self.out = nn.Linear(8, width), nn.Linear(width, 3)

    @functools.cache  # noqa: B019
    def scale(self, size: int) -> Tensor:
        return torch.ones(size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x) * slopes(self.width) + places(x.shape[0]) + self.scale(x.shape[0])[0]
        out: Tensor = self.out(x)
        return out


def test_what_is_kept_by_size_is_computed_and_nothing_of_the_call_stays() -> None:
    slopes.cache_clear()
    KEPT.clear()
    model = Cached(64)
    assert shrink(model, by=4, example=ROWS).module(ROWS).shape == (4, 3)
    narrow = slopes(16)  # of the calls of the narrow model, which are no symbols'
    assert isinstance(slopes, functools._lru_cache_wrapper)
    model(ROWS)
    assert {type(each) for each in (*KEPT.values(), narrow, slopes(64))} == {Tensor}


class Looked(nn.Module):
    """It looks its width up in a dict of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        out: Tensor = self.out(x * {64: 1.0, 16: 2.0}[x.shape[1]])
        return out


def test_a_size_as_a_key_is_refused_with_its_line() -> None:
    with pytest.raises(ShrinkError, match=r"test_caches\.py, line \d+, which looks a size up"):
        shrink(Looked(), by=4, example=ROWS)
