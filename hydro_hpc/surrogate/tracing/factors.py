"""Sizes that are one axis in another shape of the same values, such as heads and their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import SymInt


def factors_between(
    one: Sequence[int | SymInt],
    other: Sequence[int | SymInt],
    number: Callable[[int | SymInt], int],
) -> Iterator[tuple[int | SymInt, ...]]:
    """Of a view between two shapes: those of either, in order, that are one axis of the other."""
    sides = (list(one), list(other))
    while all(sides):
        runs = tuple([side.pop(0)] for side in sides)
        while (found := [math.prod(map(number, run)) for run in runs])[0] != found[1]:
            fewer = found.index(min(found))
            if not sides[fewer]:
                return
            runs[fewer].append(sides[fewer].pop(0))
        yield from (tuple(run) for run in runs if len(run) > 1 and min(map(len, runs)) == 1)
