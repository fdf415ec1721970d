"""How what was measured at a layer grows with the width: a power of it, fitted by least squares."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hydro_hpc.surrogate.coordinates.records import Measure, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The mean over seeds at each width, widths ascending, of one layer after some steps."""

    layer: str
    measure: Measure
    step: int
    widths: tuple[int, ...]
    means: tuple[float, ...]

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, self.means))

    @property
    def slope(self) -> float | None:
        """The power of the width, NaN if a mean is not finite; None if there is nothing to fit:
        the layer does not move.
        """
        if not self.is_finite:
            return math.nan
        if min(self.means) <= 0.0:
            return None
        return fit([*map(math.log2, self.widths)], [*map(math.log2, self.means)])


def curves_of(records: Iterable[Record]) -> list[Curve]:
    """In the order in which they are first recorded."""
    values: dict[tuple[str, Measure, int], dict[int, list[float]]] = {}
    for record in records:
        key = (record.layer, record.measure, record.step)
        values.setdefault(key, {}).setdefault(record.width, []).append(record.value)
    return [_curve(*key, by_width) for key, by_width in values.items()]


def _curve(layer: str, measure: Measure, step: int, by_width: Mapping[int, list[float]]) -> Curve:
    widths = tuple(sorted(by_width))
    means = tuple(statistics.fmean(by_width[width]) for width in widths)
    return Curve(layer=layer, measure=measure, step=step, widths=widths, means=means)


def fit(x: list[float], y: list[float]) -> float:
    """The slope of the line through these points by least squares."""
    return statistics.linear_regression(x, y).slope
