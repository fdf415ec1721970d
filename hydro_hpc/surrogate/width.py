"""The argument by which a model's factory is told its width, and widths that a ratio gives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Final

from hydro_hpc.errors import ShrinkError

WIDTH: Final = "width"  # its default is the target's width
LEAST: Final = 2  # one unit learns nothing as its target does
ROUNDING: Final = 1 / 8  # of a width, for the sake of heads and groups

NO_WIDTH: Final = (
    f"the factory has no argument {WIDTH}= with the target's width as its default: write "
    f"def model({WIDTH}=512), so that model() is the target"
)
NOT_AT_A_WIDTH: Final = (  # keep=
    f"is of models whose widths are followed; this one has {WIDTH}=, and its code says what that "
    "changes: leave it out"
)


def width_of(model: Callable[..., Any]) -> int | None:
    """The target's; None if the model has no such argument, or one whose default is no number.
    ShrinkError if it has no default.
    """
    argument = inspect.signature(model).parameters.get(WIDTH)
    if argument is None:
        return None
    if argument.default is argument.empty:
        raise ShrinkError(NO_WIDTH)
    default: object = argument.default
    return default if isinstance(default, int) and not isinstance(default, bool) else None


def divided(width: int, by: float) -> int:
    """About `width / by`: of the widths near that, the one that has the largest divisor in common
    with the target's, as sizes of heads and counts of groups are, and of those the nearest.
    ShrinkError if too little is left.
    """
    exact = width / by
    if by == 1:
        return width
    low = max(LEAST, math.ceil(exact * (1 - ROUNDING)))
    high = min(width - 1, math.floor(exact * (1 + ROUNDING)))
    near = range(low, high + 1) or [round(exact)]
    found = max(near, key=lambda each: (math.gcd(each, width), -abs(each - exact)))
    if found < LEAST:
        raise ShrinkError(
            f"by={by:g} leaves {exact:.3g} of the {width} units of the target's width, and one "
            f"unit learns nothing as its target does; divide by {width // LEAST} or less"
        )
    return found
