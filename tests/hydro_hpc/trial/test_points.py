"""Points of a step: the C part and its Python twin do the same."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hydro_hpc.trial import points
from hydro_hpc.trial.points import (
    PlainPoints,
)
from tests.hydro_hpc.trial.lane_passage import KINDS, MS, Lane, needs_c


def test_c_part_is_built_where_there_is_a_compiler() -> None:
    assert points.HAS_C or shutil.which("gcc") is None


class Step:
    """Points, and what they did."""

    def __init__(self, *, in_c: bool) -> None:
        self.admitted: list[int] = []
        self.learned: list[str] = []
        make: Callable[..., Any] = points._points.Points if in_c else PlainPoints
        self.points = make(admit=self.admitted.append, learn=self.learned.append, rest_ns=99)


@pytest.fixture(params=KINDS)
def step(request: pytest.FixtureRequest) -> Step:
    return Step(in_c=request.param)


def test_points_are_silent_outside_of_a_step(step: Step) -> None:
    step.points.group([5])
    step.points.pass_("a")
    step.points.begin()
    step.points.end()
    step.points.pass_("a")
    assert (step.admitted, step.learned) == ([], [])


def test_points_are_learned_until_they_are_grouped(step: Step) -> None:
    step.points.begin()
    step.points.pass_("a")
    step.points.named("b")("what", "a", "hook", "gets")
    assert (step.admitted, step.learned) == ([], ["a", "b"])


def test_first_point_of_a_group_asks_and_unknown_ones_ask_for_the_rest(step: Step) -> None:
    step.points.group([7, 0, 8])
    for _ in range(2):
        step.points.begin()
        for key in "abcd":
            step.points.pass_(key)
    assert step.admitted == [7, 8, 99] * 2


def test_groups_can_be_forgotten(step: Step) -> None:
    step.points.group([7])
    step.points.group([])
    step.points.begin()
    step.points.pass_("a")
    assert step.learned == ["a"]


def test_copy_of_a_model_shares_its_points(step: Step) -> None:
    point = step.points.named("a")
    assert copy.deepcopy({"hook": point})["hook"] is point


@needs_c
def test_points_pass_through_a_passage_of_the_same_kind(tmp_path: Path) -> None:
    lane = Lane(tmp_path, in_c=True)
    made = points.make_points(admit=lane.passage, learn=lambda _: None, rest_ns=1)
    made.group([MS, 2 * MS])
    made.begin()
    lane.admit_for(1000 * MS)
    made.pass_("a")
    lane.passage.deadline_ns = 0
    made.pass_("b")
    assert lane.asked == [2 * MS]
