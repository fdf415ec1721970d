"""The verdict on each layer: its slopes, whether they are within the bounds, and the likely cause.

Four things are looked at, in the order in which they point at a layer: values that are not finite;
what it gives at the start, or one step of its own parameters; the logits of attention; what came of
it all after some steps, which a fault elsewhere shows at every layer that follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from hydro_hpc.surrogate.coordinates import bounds
from hydro_hpc.surrogate.coordinates.causes import NOT_FINITE, cause_of
from hydro_hpc.surrogate.coordinates.records import Measure, Role
from hydro_hpc.surrogate.coordinates.slopes import Curve
from hydro_hpc.surrogate.table import Family


class Evidence(IntEnum):
    """Of a fault, the most direct first."""

    OWN = 1  # the layer's values at the start, or its own step
    LOGITS = 2
    LATER = 3  # values that are not finite after some steps
    UNCLEAR = 4  # a drift of later steps, to which no layer's own step adds: narrow models do that
    NONE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Slopes:
    """Powers of the width: the largest over the steps, None where nothing moves, NaN where values
    are not finite.
    """

    start: float | None  # mean |x| before the first step
    step: float | None  # one step of the layer's own parameters; of logits, of the model's
    size: float | None  # mean |x| after steps
    change: float | None  # mean |x - x at the start|

    @property
    def are_finite(self) -> bool:
        return not any(
            slope is not None and math.isnan(slope)
            for slope in (self.start, self.step, self.size, self.change)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerVerdict:
    layer: str
    role: Role
    slopes: Slopes
    evidence: Evidence
    cause: str  # empty if it passed

    @property
    def passed(self) -> bool:
        return self.evidence in (Evidence.UNCLEAR, Evidence.NONE)


def judge(
    curves: Iterable[Curve], roles: Mapping[str, Role], family: Family
) -> tuple[LayerVerdict, ...]:
    """One verdict per layer, in the order of `roles`."""
    by_layer: dict[str, list[Curve]] = {}
    for curve in curves:
        by_layer.setdefault(curve.layer, []).append(curve)
    return tuple(
        _judge_one(layer, role, slopes_of(by_layer.get(layer, [])), family)
        for layer, role in roles.items()
    )


def slopes_of(curves: Sequence[Curve]) -> Slopes:
    """Of one layer."""

    def found(measure: Measure, *, started: bool) -> list[float]:
        chosen = [c for c in curves if c.measure is measure and (c.step > 0) == started]
        return [slope for c in chosen if (slope := c.slope) is not None]

    steps = found(Measure.STEP, started=True)
    return Slopes(
        start=_largest(found(Measure.SIZE, started=False)),
        step=steps[0] if steps else None,  # later only if the layer does not move at once
        size=_largest(found(Measure.SIZE, started=True)),
        change=_largest(found(Measure.CHANGE, started=True)),
    )


def _largest(slopes: list[float]) -> float | None:
    if any(map(math.isnan, slopes)):
        return math.nan
    return max(slopes, default=None)


def _judge_one(layer: str, role: Role, slopes: Slopes, family: Family) -> LayerVerdict:
    evidence = _evidence(role, slopes, family)
    cause = ""
    if evidence is Evidence.OWN or (evidence is not Evidence.NONE and slopes.are_finite):
        cause = cause_of(role, slopes.start, slopes.step, family)
    elif evidence is not Evidence.NONE:
        cause = NOT_FINITE
    return LayerVerdict(layer=layer, role=role, slopes=slopes, evidence=evidence, cause=cause)


def _evidence(role: Role, slopes: Slopes, family: Family) -> Evidence:
    bound = bounds.STEP[family][role]
    is_own = slopes.step is not None and (slopes.step < bound.low or slopes.step > bound.high)
    if role is Role.LOGITS:
        return Evidence.LOGITS if is_own else _later(slopes)
    if is_own or (role is not Role.PLAIN and _is_above(slopes.start, bounds.START)):
        return Evidence.OWN
    return _later(slopes)


def _later(slopes: Slopes) -> Evidence:
    if not slopes.are_finite:
        return Evidence.LATER
    drifts = (
        _is_above(slopes.start, bounds.START)
        or _is_above(slopes.size, bounds.SIZE)
        or _is_above(slopes.change, bounds.CHANGE)
    )
    return Evidence.UNCLEAR if drifts else Evidence.NONE


def _is_above(slope: float | None, bound: float) -> bool:
    return slope is not None and slope > bound
