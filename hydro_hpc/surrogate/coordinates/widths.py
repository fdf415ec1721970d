"""Which widths to compare: the target's times powers of two, as narrow as models still behave, and
above a narrow target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.coordinates.recipe import Ladder

NARROWEST: Final = 16
MOST_NARROWED: Final = 64  # times; below, all that is left of the target is noise
NUM_WIDTHS: Final = 4
FEWEST: Final = 3
NUM_TRIED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """`refused`: those that the factory does not take, each with what it said."""

    accepted: tuple[int, ...]
    refused: dict[int, str]


def find_widths(ladder: Ladder, target: int) -> Widths:
    """ShrinkError if the factory takes too few; what refuses its own width is said as it is."""
    try:
        return choose(candidates(target), lambda width: _refusal(ladder, width))
    except ShrinkError:
        if reason := _refusal(ladder, target):
            raise ShrinkError(reason) from None
        raise


def candidates(target: int) -> Iterator[int]:
    """Ascending."""
    width = max(1, target)
    while width % 2 == 0 and width // 2 >= max(NARROWEST, target // MOST_NARROWED):
        width //= 2
    for power in range(NUM_TRIED):
        yield width * 2**power


def choose(widths: Iterator[int], refusal: Callable[[int], str | None]) -> Widths:
    """The first that are not refused."""
    accepted: list[int] = []
    refused: dict[int, str] = {}
    for width in widths:
        if (reason := refusal(width)) is None:
            accepted.append(width)
        else:
            refused[width] = reason
        if len(accepted) == NUM_WIDTHS:
            break
    if len(accepted) < FEWEST:
        last = list(refused.items())[-1:]
        said = "".join(f" (of {width} it says: {reason})" for width, reason in last)
        raise ShrinkError(
            f"the factory takes {len(accepted)} of the widths {', '.join(map(str, refused))}, and "
            f"{FEWEST} are needed to compare{said}; name widths that it takes: widths=(...)"
        )
    return Widths(accepted=tuple(accepted), refused=refused)


def _refusal(ladder: Ladder, width: int) -> str | None:
    """What the user's factory raises can be of any kind."""
    with torch.random.fork_rng(devices=[]):
        try:
            ladder(width)
        except Exception as error:
            return " ".join(str(error).split()) or type(error).__name__
    return None
