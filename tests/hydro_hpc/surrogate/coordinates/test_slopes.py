from __future__ import annotations

import math
import random
import statistics

import pytest

from hydro_hpc.surrogate.coordinates.records import Measure, Record
from hydro_hpc.surrogate.coordinates.slopes import Curve, curves_of, noise_of


def curve(*means: float) -> Curve:
    widths = tuple(16 * 2**number for number in range(len(means)))
    return Curve(layer="a", measure=Measure.STEP, step=1, widths=widths, means=means)


def test_the_slope_is_the_power_of_the_width() -> None:
    assert curve(3.0, 6.0, 12.0).slope == pytest.approx(1.0)
    assert curve(4.0, 2.0, 1.0, 0.5).slope == pytest.approx(-1.0)


def test_what_does_not_move_has_no_slope() -> None:
    assert curve(1.0, 0.0, 1.0).slope is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_nan(value: float) -> None:
    slope = curve(1.0, value, 0.0).slope
    assert slope is not None
    assert math.isnan(slope)


def test_the_mean_over_seeds_is_fitted() -> None:
    values = {(16, 0): 1.0, (16, 1): 3.0, (32, 0): 4.0, (32, 1): 4.0}
    [found] = curves_of(
        Record(layer="a", measure=Measure.SIZE, width=width, seed=seed, step=0, value=value)
        for (width, seed), value in values.items()
    )
    assert found.means == (2.0, 4.0)
    assert found.slope == pytest.approx(1.0)


def test_noise_is_how_far_a_slope_goes_by_chance() -> None:
    drawn, curves = random.Random(0), []
    for _ in range(200):
        curves += curves_of(
            Record(
                layer="a",
                measure=Measure.SIZE,
                width=width,
                seed=seed,
                step=0,
                value=math.exp(drawn.gauss(0, 0.2)),
            )
            for width in (16, 32, 64, 128)
            for seed in range(3)
        )
    slopes = [curve.slope for curve in curves if curve.slope is not None]
    noise = statistics.fmean(curve.noise for curve in curves)
    assert statistics.stdev(slopes) < noise < 1.4 * statistics.stdev(slopes)


def test_one_seed_shows_its_noise_by_how_far_means_are_from_the_line() -> None:
    values = {16: [1.0], 32: [4.0], 64: [2.0]}
    assert noise_of(values) > 0.5
    assert noise_of({16: [1.0], 32: [2.0], 64: [4.0]}) == pytest.approx(0.0, abs=1e-6)
