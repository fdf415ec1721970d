"""Pairs out of the steps of a block."""

from __future__ import annotations

import pytest

from benchmarks.blocks import pair_ratios
from benchmarks.running import Line


def line(step: int, step_s: float) -> Line:
    return Line(step=step, loss=0.0, step_s=step_s)


def test_pairs_are_two_open_and_the_two_shut_steps_after_them() -> None:
    times = {0: 1.1, 1: 1.3, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 1.0}
    assert pair_ratios([line(step, s) for step, s in times.items()]) == pytest.approx([0.2])


def test_half_a_pair_at_the_end_of_a_block_does_not_count() -> None:
    assert pair_ratios([line(step, 1.0) for step in (1, 2, 3, 4, 5)]) == []
