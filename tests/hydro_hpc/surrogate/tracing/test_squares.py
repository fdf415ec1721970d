"""Sums of squares over a width, as in distances: said where they grow with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.report import Report
from tests.hydro_hpc.surrogate.against_target import NARROW, TARGET

Squares = Callable[[Tensor, Tensor], Tensor]  # of B rows and 5 others, all of the width


class Model(nn.Module):
    """[B, 8] -> logits [B, 5], by how near each row is to the first five."""

    def __init__(self, squares: Squares, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.other = nn.Linear(8, width), nn.Linear(8, width)
        self.out, self.squares = nn.Linear(5, 5), squares

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.squares(self.into(x), self.other(x[:5])))  # type: ignore[no-any-return]


def radial(x: Tensor, y: Tensor) -> Tensor:
    return (-(x[:, None] - y).pow(2).sum(-1)).exp()


def written_out(x: Tensor, y: Tensor) -> Tensor:
    difference = x[:, None] - y
    return torch.einsum("bkd->bk", difference * difference) / 2


def distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y)


def norms(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y).norm(dim=-1)


def between_pairs(x: Tensor, y: Tensor) -> Tensor:
    return F.pairwise_distance(x[:, None], y)


def roots(x: Tensor, y: Tensor) -> Tensor:
    return ((x[:, None] - y) ** 2).sum(-1) ** 0.5


def machine(x: Tensor, y: Tensor) -> Tensor:
    """The second order of a factorization machine."""
    pairs = x[:, None] * 0.1 + y
    return (pairs.cumsum(1).pow(2) - pairs.pow(2).cumsum(1)).sum(-1)


def means(x: Tensor, y: Tensor) -> Tensor:
    return TARGET * (x[:, None] - y).pow(2).mean(-1)


def scaled(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y).pow(2).sum(-1) * (TARGET / x.shape[-1])


def scaled_norms(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y).norm(dim=-1) / x.shape[-1] ** 0.5


def cosines(x: Tensor, y: Tensor) -> Tensor:
    return 10 * F.cosine_similarity(x[:, None], y, dim=-1)


def divided(x: Tensor, y: Tensor) -> Tensor:
    root = (x.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt()
    other = y * (y * y).sum(-1, keepdim=True) ** -0.5
    third = y * torch.rsqrt(y.square().sum(-1, keepdim=True))
    return F.normalize(x / root, dim=-1) @ F.normalize(other + third, dim=-1).mT


def report(squares: Squares) -> Report:
    return shrink(partial(Model, squares), width=NARROW, example=torch.randn(6, 8)).report


@pytest.mark.parametrize(
    "squares", [radial, written_out, distances, norms, between_pairs, roots, machine]
)
def test_a_sum_that_grows_with_the_width_is_said(squares: Squares) -> None:
    [said] = report(squares).warnings
    assert f"sums the squares of {TARGET} values in the target and of {NARROW} in the s" in said
    assert f"take {TARGET} times their mean" in said


@pytest.mark.parametrize("squares", [means, scaled, scaled_norms, cosines, divided])
def test_one_that_does_not_grow_or_is_divided_by_is_none(squares: Squares) -> None:
    assert not report(squares).warnings
