from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from hydro_hpc.errors import StudyError
from hydro_hpc.study.description import StudyDescription
from hydro_hpc.study.space import (
    Distribution,
    Integer,
    choice,
    distribution_from_json,
    distribution_to_json,
    integer,
    log_uniform,
    uniform,
)

EVERY_KIND: list[Distribution] = [
    uniform(-1.0, 2.5),
    log_uniform(1e-4, 1e-1),
    integer(1, 8),
    integer(16, 1024, log=True),
    choice("relu", "tanh", None, True, 3),
]


@pytest.mark.parametrize("distribution", EVERY_KIND)
def test_a_distribution_survives_json(distribution: Distribution) -> None:
    text = json.dumps(distribution_to_json(distribution))
    assert distribution_from_json(json.loads(text)) == distribution


def test_the_middle_of_a_logarithmic_range_is_its_geometric_mean() -> None:
    assert log_uniform(1e-4, 1e-2).middle() == pytest.approx(1e-3)
    assert integer(1, 100, log=True).middle() == 10
    assert uniform(2.0, 4.0).middle() == 3.0


@pytest.mark.parametrize(
    ("make", "bounds", "words"),
    [
        (uniform, (2, 1), "low bound must be below"),
        (uniform, (1, 1), "low bound must be below"),
        (uniform, (0, float("inf")), "must be finite"),
        (uniform, ("0", 1), "bounds are numbers, not '0'"),
        (log_uniform, (0, 1), "low bound must be above 0"),
        (integer, (0, 1.5), "both bounds must be integers"),
        (Integer, (0, 8, True), "low bound must be >= 1"),
        (choice, (), "at least one option"),
        (choice, (print,), "is neither a number"),
        (choice, ([16, 32],), "[16, 32] is one option, a list; give options one by one"),
    ],
)
def test_bad_bounds_are_one_sentence(
    make: Callable[..., Distribution], bounds: tuple[object, ...], words: str
) -> None:
    with pytest.raises(StudyError) as caught:
        make(*bounds)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def description(**changes: object) -> StudyDescription:
    facts: dict[str, object] = {
        "name": "s",
        "space": {"lr": log_uniform(1e-4, 1e-1), "act": choice("relu", "tanh")},
        "direction": "maximize",
        "search": "tpe",
        "pruner": "none",
        "trials": 8,
        "seed": 0,
        "settings": {"epochs": "3"},
    }
    return StudyDescription(**(facts | changes))  # type: ignore[arg-type]


def test_a_description_survives_json() -> None:
    assert StudyDescription.from_json(description().to_json()) == description()


def test_the_number_of_trials_may_change_but_not_the_space() -> None:
    assert description().differences(description(trials=99, search="random")) == []
    other = description(space={"lr": log_uniform(1e-4, 1.0)}, settings={"epochs": "4"})
    assert description().differences(other) == ["space", "settings (epochs)"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: choice(10**5000, 1),
        lambda: integer(1, 10**5000),
        lambda: uniform(-(10**5000), 1),
        lambda: log_uniform(1, 10**5000),
    ],
)
def test_an_integer_beyond_all_floats_is_refused_in_a_short_sentence(
    make: Callable[[], object],
) -> None:
    with pytest.raises(StudyError, match="an integer of 16610 bits is too large"):
        make()
