"""A learning rate for the check: large, so that what is wrong with the width shows, and well below
where training turns into chaos, which says nothing of the width.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.coordinates.recipe import Batch, Ladder, Recipe
from hydro_hpc.surrogate.coordinates.training import train

SMALLEST: Final = 2.0**-13
LARGEST: Final = 8.0
MARGIN: Final = 8.0


def find_rate(ladder: Ladder, width: int, seed: int, batch: Batch, recipe: Recipe) -> float:
    """Doubles the rate until the loss of this width does not fall any more, and goes back.

    ShrinkError if the model trains at none.
    """
    lr = SMALLEST
    while lr <= LARGEST:
        losses = train(ladder, width, seed, batch, replace(recipe, lr=lr))
        if not math.isfinite(losses[-1]) or losses[-1] >= losses[0]:
            break
        lr *= 2
    if not math.isfinite(losses[0]):
        raise ShrinkError(
            f"the model of width {width} cannot be trained on the example: its loss is {losses[0]} "
            "before the first step; mend the model, the loss or the data"
        )
    if lr == SMALLEST:
        raise ShrinkError(
            f"the model of width {width} does not train on the example: its loss does not fall "
            f"from {losses[0]:.4g} at a learning rate of {lr:.2g}; mend the model, or give "
            "check(lr=) one at which it trains"
        )
    return max(SMALLEST, lr / MARGIN)
