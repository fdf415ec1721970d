"""What the steps of a block show."""

from __future__ import annotations

import math

import pytest

from benchmarks.blocks import as_figure, open_over_shut
from benchmarks.running import Line


def line(step: int, step_s: float) -> Line:
    return Line(step=step, loss=0.0, step_s=step_s)


def test_shut_steps_are_compared_with_the_open_ones_beside_them() -> None:
    times = {0: 1.1, 1: 1.0, 2: 1.1, 3: 2.0, 4: 8.8, 5: 1.0}
    logs = open_over_shut([line(step, s) for step, s in times.items()])
    assert logs == pytest.approx([math.log(1.1), math.log(math.sqrt(1.1 * 8.8) / 2.0)])


def test_shut_step_at_the_edge_of_a_block_does_not_count() -> None:
    assert open_over_shut([line(step, 1.0) for step in (1, 2)]) == []
    assert open_over_shut([line(step, 1.0) for step in (4, 5)]) == []


def test_figure_is_a_slowdown() -> None:
    assert as_figure([math.log(1.25)] * 5).median == pytest.approx(0.25)
