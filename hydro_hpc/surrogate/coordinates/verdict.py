"""The verdict on each layer: its slopes, whether they are within the bounds, and the likely cause.

Looked at, in the order in which they point at a layer: what its weights make of an input, and what
one step of its own parameters does; the logits of attention; values that grow at the start though
no layer is to blame; values that are not finite. What came of it all after some steps is shown.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from hydro_hpc.surrogate.coordinates import bounds
from hydro_hpc.surrogate.coordinates.causes import (
    BETWEEN,
    DRIFTS,
    NOISY,
    NOT_FINITE,
    NOT_SEEN,
    cause_of_gain,
    cause_of_step,
)
from hydro_hpc.surrogate.coordinates.records import Measure, Role
from hydro_hpc.surrogate.coordinates.slopes import Curve
from hydro_hpc.surrogate.table import Family


class Evidence(IntEnum):
    """Of a fault, the most direct first."""

    OWN = 1  # what the layer's weights make of an input, or its own step
    LOGITS = 2
    BETWEEN = 3  # values grow at the start, though no layer does that
    LATER = 4  # values that are not finite after some steps
    UNCLEAR = 5  # a drift of later steps, which narrow models have too; noise; no step was seen
    NONE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Slopes:
    """Powers of the width: the largest over the steps, None where there is nothing, NaN where
    values are not finite.
    """

    gain: float | None  # what its weights make of inputs of unit size
    step: float | None  # one step of its own parameters
    start: float | None  # mean |x| before the first step
    size: float | None  # mean |x| after steps
    change: float | None  # mean |x - x at the start|
    noise: Mapping[Measure, float] = field(default_factory=dict)  # standard errors at the start

    @property
    def are_finite(self) -> bool:
        each = (self.gain, self.step, self.start, self.size, self.change)
        return not any(slope is not None and math.isnan(slope) for slope in each)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerVerdict:
    layer: str
    role: Role
    slopes: Slopes
    evidence: Evidence
    cause: str  # empty if there is nothing to say

    @property
    def passed(self) -> bool:
        return self.evidence in (Evidence.UNCLEAR, Evidence.NONE)


def judge(
    curves: Iterable[Curve],
    roles: Mapping[str, Role],
    family: Family,
    unseen: Collection[str] = (),
) -> tuple[LayerVerdict, ...]:
    """One verdict per layer, in the order of `roles`. `unseen` are those that learn, and of which
    no step was seen at some width.
    """
    by_layer: dict[str, list[Curve]] = {}
    for curve in curves:
        by_layer.setdefault(curve.layer, []).append(curve)
    found = []
    for layer, role in roles.items():
        slopes = slopes_of(by_layer.get(layer, []))
        is_unseen = layer in unseen and slopes.step is None
        evidence, cause = _evidence(role, slopes, family, is_unseen=is_unseen)
        found.append(
            LayerVerdict(layer=layer, role=role, slopes=slopes, evidence=evidence, cause=cause)
        )
    return tuple(found)


def slopes_of(curves: Sequence[Curve]) -> Slopes:
    """Of one layer."""

    def found(measure: Measure, *, started: bool) -> list[Curve]:
        chosen = [c for c in curves if c.measure is measure and (c.step > 0) is started]
        return [curve for curve in chosen if curve.slope is not None]

    # After a step only if the layer does not move at once.
    steps = [*found(Measure.STEP, started=False), *found(Measure.STEP, started=True)][:1]
    first = [*found(Measure.GAIN, started=False), *steps, *found(Measure.SIZE, started=False)]
    return Slopes(
        gain=_largest(found(Measure.GAIN, started=False)),
        step=_largest(steps),
        start=_largest(found(Measure.SIZE, started=False)),
        size=_largest(found(Measure.SIZE, started=True)),
        change=_largest(found(Measure.CHANGE, started=True)),
        noise={curve.measure: curve.noise for curve in first},
    )


def _largest(curves: Sequence[Curve]) -> float | None:
    slopes = [slope for curve in curves if (slope := curve.slope) is not None]
    if any(map(math.isnan, slopes)):
        return math.nan
    return max(slopes, default=None)


def _evidence(
    role: Role, slopes: Slopes, family: Family, *, is_unseen: bool
) -> tuple[Evidence, str]:
    looked_at = (
        (Measure.GAIN, slopes.gain, bounds.GAIN[role]),
        (Measure.STEP, slopes.step, bounds.STEP[role]),
        (Measure.SIZE, slopes.start, bounds.ANY if role is Role.LOGITS else bounds.START),
    )
    left = [(measure, slope) for measure, slope, bound in looked_at if bound.is_left_by(slope)]
    for measure, slope in left:
        if slope is not None and abs(slope) > bounds.SIGMAS * slopes.noise.get(measure, 0.0):
            return _fault(role, measure, slope, family)
    if not slopes.are_finite:
        return Evidence.LATER, NOT_FINITE
    if left or is_unseen:
        return Evidence.UNCLEAR, NOISY if left else NOT_SEEN
    drifts = _is_above(slopes.size, bounds.SIZE) or _is_above(slopes.change, bounds.CHANGE)
    return (Evidence.UNCLEAR, DRIFTS) if drifts else (Evidence.NONE, "")


def _fault(role: Role, measure: Measure, slope: float, family: Family) -> tuple[Evidence, str]:
    if measure is Measure.GAIN:
        return Evidence.OWN, cause_of_gain(role, slope)
    if measure is Measure.SIZE:
        return Evidence.BETWEEN, BETWEEN
    evidence = Evidence.LOGITS if role is Role.LOGITS else Evidence.OWN
    return evidence, cause_of_step(role, slope, family)


def _is_above(slope: float | None, bound: float) -> bool:
    return slope is not None and slope > bound
