"""How what was measured at a layer grows with the width: a power of it, fitted by least squares."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hydro_hpc.surrogate.coordinates.records import Measure, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The mean over seeds at each width, widths ascending, of one layer after some steps. `noise`
    is the standard error of the slope, by how values of one width differ.
    """

    layer: str
    measure: Measure
    step: int
    widths: tuple[int, ...]
    means: tuple[float, ...]
    noise: float = 0.0

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
        if len(self.means) < 2 or min(self.means) <= 0.0:
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
    return Curve(
        layer=layer,
        measure=measure,
        step=step,
        widths=widths,
        means=tuple(statistics.fmean(by_width[width]) for width in widths),
        noise=noise_of(by_width),
    )


def noise_of(by_width: Mapping[int, Sequence[float]]) -> float:
    """The standard error of the slope, with one relative spread at all widths: by how values of one
    width differ, or how far their means are from the line, whichever says more.
    """
    x = [math.log(width) for width in by_width]
    means = [statistics.fmean(values) for values in by_width.values()]
    if len(x) < 2 or not all(0 < mean < math.inf for mean in means):
        return 0.0
    apart = statistics.pvariance(x) * len(x)
    found = [0.0]
    if min(map(len, by_width.values())) > 1:
        pairs = zip(by_width.values(), means, strict=True)
        each = (statistics.variance(values) / (mean**2 * len(values)) for values, mean in pairs)
        found.append(statistics.fmean(each) / apart)
    if len(x) > 2:
        y = [*map(math.log, means)]
        line = statistics.linear_regression(x, y)
        off = (b - line.slope * a - line.intercept for a, b in zip(x, y, strict=True))
        found.append(sum(e * e for e in off) / (len(x) - 2) / apart)
    return math.sqrt(max(found))


def fit(x: list[float], y: list[float]) -> float:
    """The slope of the line through these points by least squares."""
    return statistics.linear_regression(x, y).slope
