"""Products of two activations at the target's width and at the surrogate's.

A sum over d values of both must be multiplied by a factor that falls as 1/d from one width to the
other: it stays if d stays. An activation that is divided by its norm takes a root of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from hydro_hpc.surrogate.tracing.probe import Product
from hydro_hpc.surrogate.tracing.squares import SquareSum

TOLERANCE: Final = 0.01  # relative, of half precision too
Placed = TypeVar("Placed", Product, SquareSum)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFinding:
    """One product at both widths."""

    target: Product
    narrow: Product

    @property
    def expected(self) -> float | None:
        """The surrogate's factor, if it were right."""
        if self.target.factor is None:
            return None
        ratio = self.target.size / self.narrow.size
        return self.target.factor * math.pow(ratio, 1 - self.target.num_normed / 2)

    @property
    def is_told(self) -> bool:
        """Says whether both factors are known."""
        are_alike = self.target.num_normed == self.narrow.num_normed
        return are_alike and None not in (self.target.factor, self.narrow.factor)

    @property
    def is_right(self) -> bool:
        """False if it is not told."""
        if self.expected is None or self.narrow.factor is None or not self.is_told:
            return False
        return math.isclose(self.narrow.factor, self.expected, rel_tol=TOLERANCE)

    @property
    def sentence(self) -> str:
        """What is wrong, where, and what to do."""
        target, narrow = self.target, self.narrow
        where = f"'{target.path}'" if target.path else "the model"
        product = (
            f"{where} multiplies two activations over {target.size} values in the target and "
            f"{narrow.size} in the surrogate"
        )
        if not self.is_told:
            return (
                f"{product}, and by what it multiplies their product cannot be told: it must fall "
                "as one over that size, or the size must stay"
            )
        return (
            f"{product}, and their product by {narrow.factor:.4g} where muP needs "
            f"{self.expected:.4g}: multiply it by {target.size} / its size, which changes nothing "
            "in the target, or let the layers whose product it is give as many values at any width"
        )


def paired(wide: Sequence[Placed], narrow: Sequence[Placed]) -> Iterator[tuple[Placed, Placed]]:
    """What was seen of a target and what of its surrogate, in order, by module."""
    for path in dict.fromkeys(each.path for each in wide):
        own = [each for each in wide if each.path == path]
        others = [each for each in narrow if each.path == path]
        yield from zip(own, others, strict=False)
