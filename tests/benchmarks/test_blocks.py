"""What the steps of a block show."""

from __future__ import annotations

import math

import pytest

from benchmarks.blocks import ALWAYS_DENSE, as_figure, open_over_shut
from benchmarks.running import Line
from hydro_hpc.primary.guard import is_shut


def line(step: int, step_s: float) -> Line:
    return Line(step=step, loss=0.0, step_s=step_s)


def test_shut_steps_are_compared_with_the_open_ones_beside_them() -> None:
    times = {0: 1.1, 1: 1.0, 2: 1.1, 3: 2.0, 4: 8.8, 5: 1.0}
    logs = open_over_shut([line(step, s) for step, s in times.items()])
    assert logs == pytest.approx([math.log(1.1), math.log(math.sqrt(1.1 * 8.8) / 2.0)])


def test_shut_step_at_the_edge_of_a_block_does_not_count() -> None:
    assert open_over_shut([line(step, 1.0) for step in (1, 2)]) == []
    assert open_over_shut([line(step, 1.0) for step in (4, 5)]) == []


def test_shut_steps_side_by_side_do_not_count() -> None:
    """Where the guard's schedule changes from odd steps to even ones."""
    shut = [step for step in range(400) if is_shut(step, ALWAYS_DENSE)]
    first = next(step for step in shut if step + 1 in shut)
    assert open_over_shut([line(step, 1.0) for step in range(first - 1, first + 3)]) == []


def test_figure_is_a_slowdown() -> None:
    assert as_figure([math.log(1.25)] * 5).median == pytest.approx(0.25)
