"""Where the best of a study lies at the edge of its space, so that better values may lie beyond."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from hydro_hpc.study.space import (
    Choice,
    Distribution,
    Integer,
    LogUniform,
    Params,
    Space,
    Uniform,
    Value,
    extremes,
)

NEAR_FRAC: Final = 0.05  # of a range, on the scale on which it is drawn
FEWEST: Final = 3  # values of a grid: of two, each is an edge


def at_edges(
    number: int, best: Params, completed: Collection[Params], space: Space
) -> Iterator[str]:
    """A sentence for each number among what the best trial, this one, has chosen that is at an
    edge. `completed` are the choices of all that completed.

    That is a bound, or what is within NEAR_FRAC of the range of one: of its logarithm, where that
    is what is drawn. Numbers to choose from are a grid in the order of their size, whose edges are
    the least and the largest. Names, truth values and grids of two have no edge, nor has what was
    the same in all trials. A low bound of 0 is none, nor 1 of a count, nor a high bound of 1 above
    0, as of shares: mostly nothing lies beyond.
    """
    for name, value in best.items():
        side = _side(value, space[name])
        if side and any(params[name] != value for params in completed):
            low, *_, high = sorted(extremes(space[name]))
            beyond = "above" if side == "upper" else "below"
            yield (
                f"{name} of trial {number}, {value:.6g}, is at the {side} edge of its range "
                f"({low:.6g} to {high:.6g}), and better values may lie {beyond} it: widen the "
                "range there, in a study of another name"
            )


def _side(value: Any, distribution: Distribution) -> str:
    """At which edge it is, "upper" or "lower"; empty if at none."""
    points = _points(value, distribution)
    if points is None:
        return ""
    low, here, high = points
    ends = extremes(distribution)
    if high - here <= NEAR_FRAC * (high - low):
        return "" if (min(ends), max(ends)) == (0, 1) else "upper"
    if here - low <= NEAR_FRAC * (high - low):
        return "" if _is_least(ends) else "lower"
    return ""


def _points(value: Any, distribution: Distribution) -> tuple[float, float, float] | None:
    """The low bound, the value and the high bound on the distribution's scale, None if it has no
    edges.
    """
    match distribution:
        case Uniform(low, high):
            return low, value, high
        case LogUniform(low, high):
            return math.log(low), math.log(value), math.log(high)
        case Integer(low, high, log) if high - low + 1 >= FEWEST:
            return (math.log(low), math.log(value), math.log(high)) if log else (low, value, high)
        case Choice(options):
            grid = _grid(options)
            return (0, grid.index(value), len(grid) - 1) if len(grid) >= FEWEST else None
    return None


def _is_least(given: Sequence[Any]) -> bool:
    low = min(given)
    return low == 0 or (low == 1 and all(isinstance(each, int) for each in given))


def _grid(options: Sequence[Value]) -> list[float]:
    """Empty if they are not all finite numbers."""
    numbers = {
        option for option in options if isinstance(option, int | float) and math.isfinite(option)
    }
    are_numbers = not any(isinstance(option, bool | str | None) for option in options)
    return sorted(numbers) if are_numbers and numbers.issuperset(options) else []
