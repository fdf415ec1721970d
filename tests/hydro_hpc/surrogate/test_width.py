"""Widths that a ratio gives, and the argument by which a factory is told its width."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.width import divided, width_of

HEAD = 32


class Attending(nn.Module):
    """Its heads keep their size, so it is built at multiples of that only."""

    def __init__(self, width: int = 16 * HEAD) -> None:
        super().__init__()
        self.into = nn.Linear(5, width)
        self.attention = nn.MultiheadAttention(width, width // HEAD)
        self.out = nn.Linear(width, 3)


@pytest.mark.parametrize(
    ("width", "by", "found"),
    [
        (512, 8, 64),
        (100, 4, 25),
        (12, 6, 2),
        (512, 3, 192),  # 6 heads of 32, as its target has 16; 171 would be none
        (1024, 3, 384),
        (32, 3, 12),
        (31, 3, 10),  # nothing in common: the nearest
        (64, 1.1, 56),  # narrower, though little
        (48, 1, 48),
    ],
)
def test_a_ratio_that_does_not_divide_rounds_to_what_has_most_in_common(
    width: int, by: float, found: int
) -> None:
    assert divided(width, by) == found


def test_rounding_is_by_an_eighth_at_most() -> None:
    for width in range(16, 200):
        for by in (1.5, 2, 3, 5, 7):
            found = divided(width, by)
            assert abs(found - width / by) <= max(0.5, width / by / 8 + 1e-9)
            assert found < width
            if width % by == 0:
                assert math.isclose(found, width / by)


def test_the_width_of_heads_is_kept_and_the_ratio_is_the_actual_one() -> None:
    surrogate = shrink(Attending, by=3)
    attention = surrogate.module.get_submodule("attention")
    assert (attention.embed_dim, attention.head_dim) == (192, HEAD)
    assert surrogate.rules["attention.out_proj.weight"].m_in == 192 / (16 * HEAD)


@pytest.mark.parametrize(("width", "by"), [(2, 2), (32, 32), (32, 100), (4, 3)])
def test_a_ratio_that_leaves_one_unit_is_one_sentence(width: int, by: float) -> None:
    with pytest.raises(ShrinkError, match=rf"^by={by} leaves .* of the {width} units of "):
        divided(width, by)


@pytest.mark.parametrize(
    ("model", "width"),
    [
        (lambda width=32: nn.Linear(width, 2), 32),
        (lambda width=None: nn.Linear(width or 4, 2), None),
        (lambda width=True: nn.Linear(int(width), 2), None),
        (lambda size=32: nn.Linear(size, 2), None),
    ],
)
def test_a_width_is_an_argument_with_a_number(model: Callable[..., Any], width: int | None) -> None:
    assert width_of(model) == width


def test_a_width_without_a_default_is_one_sentence() -> None:
    with pytest.raises(ShrinkError, match="no argument width= with the target's width as its def"):
        width_of(lambda width: nn.Linear(width, 2))
