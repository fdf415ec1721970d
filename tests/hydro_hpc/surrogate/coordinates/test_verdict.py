from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hydro_hpc.surrogate.coordinates.causes import NOT_FINITE
from hydro_hpc.surrogate.coordinates.records import Measure, Role
from hydro_hpc.surrogate.coordinates.slopes import Curve
from hydro_hpc.surrogate.coordinates.verdict import Evidence, LayerVerdict, judge
from hydro_hpc.surrogate.table import Family


def power(measure: Measure, step: int, slope: float) -> Curve:
    widths = (16, 32, 64, 128)
    means = tuple(float(width) ** slope for width in widths)
    return Curve(layer="a", measure=measure, step=step, widths=widths, means=means)


def verdict(role: Role, *curves: Curve, family: Family = Family.ADAM) -> LayerVerdict:
    [found] = judge(curves, {"a": role}, family)
    return found


@pytest.mark.parametrize("role", [Role.INPUT, Role.HIDDEN, Role.OUTPUT, Role.VECTOR])
@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("slope", [-1.0, 1.0])
def test_a_step_that_goes_with_the_width_fails(role: Role, family: Family, slope: float) -> None:
    found = verdict(role, power(Measure.STEP, 0, slope), family=family)
    assert found.evidence is Evidence.OWN
    assert ("grow" if slope > 0 else "shrink") in found.cause


def test_a_step_like_at_every_width_passes() -> None:
    found = verdict(Role.HIDDEN, power(Measure.STEP, 1, 0.1), power(Measure.CHANGE, 3, -0.6))
    assert found.passed
    assert not found.cause


def test_the_second_step_counts_only_where_the_first_is_none() -> None:
    still = Curve(layer="a", measure=Measure.STEP, step=0, widths=(16, 32), means=(0.0, 0.0))
    late = power(Measure.STEP, 1, 1.0)
    assert not verdict(Role.HIDDEN, still, late).passed
    assert verdict(Role.HIDDEN, power(Measure.STEP, 0, 0.0), late).passed


def test_outputs_may_fall_at_the_start_and_not_grow() -> None:
    assert verdict(Role.OUTPUT, power(Measure.GAIN, 0, -0.5)).passed
    grown = verdict(Role.OUTPUT, power(Measure.GAIN, 0, 0.5))
    assert grown.evidence is Evidence.OWN
    assert "multiplier" in grown.cause


@pytest.mark.parametrize("role", [Role.INPUT, Role.HIDDEN])
def test_first_values_inside_the_width_must_neither_grow_nor_fall(role: Role) -> None:
    for slope, way in ((0.5, "grows"), (-0.5, "shrinks")):
        found = verdict(role, power(Measure.GAIN, 0, slope))
        assert found.evidence is Evidence.OWN
        assert way in found.cause
    assert verdict(role, power(Measure.GAIN, 0, 0.1)).passed


def test_values_that_grow_though_no_layer_makes_them_fail() -> None:
    found = verdict(Role.PLAIN, power(Measure.SIZE, 0, 0.5))
    assert found.evidence is Evidence.BETWEEN
    assert verdict(Role.PLAIN, power(Measure.SIZE, 0, -0.5)).passed


def test_what_is_no_more_than_noise_is_unclear() -> None:
    noisy = replace(power(Measure.STEP, 0, 0.5), noise=0.2)
    assert verdict(Role.HIDDEN, noisy).evidence is Evidence.UNCLEAR
    assert "seeds" in verdict(Role.HIDDEN, noisy).cause
    assert not verdict(Role.HIDDEN, replace(noisy, noise=0.1)).passed


def test_what_learns_and_is_not_seen_to_is_unclear() -> None:
    [found] = judge([], {"a": Role.VECTOR}, Family.ADAM, unseen={"a"})
    assert found.evidence is Evidence.UNCLEAR
    [found] = judge([power(Measure.STEP, 0, 1.0)], {"a": Role.VECTOR}, Family.ADAM, unseen={"a"})
    assert not found.passed


def test_steps_of_logits_may_neither_grow_nor_fall() -> None:
    assert verdict(Role.LOGITS, power(Measure.STEP, 0, -0.1)).passed
    for slope, way in ((0.46, "grow"), (-0.46, "shrink")):
        found = verdict(Role.LOGITS, power(Measure.STEP, 0, slope))
        assert found.evidence is Evidence.LOGITS
        assert way in found.cause


def test_growth_after_steps_is_the_weakest_evidence() -> None:
    for measure in (Measure.SIZE, Measure.CHANGE):
        found = verdict(Role.PLAIN, power(measure, 3, 0.8))
        assert found.evidence is Evidence.UNCLEAR
        assert found.passed
        assert "drifts" in found.cause


def test_values_that_are_not_finite_fail() -> None:
    bad = Curve(layer="a", measure=Measure.SIZE, step=2, widths=(16, 32), means=(1.0, math.nan))
    assert verdict(Role.HIDDEN, power(Measure.STEP, 1, 0.0), bad).cause == NOT_FINITE
