"""Which of the best trial's hyperparameters lie at the edge of the space."""

from __future__ import annotations

from typing import Any

import pytest

from hydro_hpc.study.edges import at_edges
from hydro_hpc.study.space import Distribution, choice, integer, log_uniform, uniform
from tests.hydro_hpc.study.conftest import MakeStudy


def said(value: Any, distribution: Distribution, *others: Any) -> list[str]:
    """Of trial 3, whose value is the best; others completed with a value that is none otherwise."""
    tried = [{"x": each} for each in (value, *(others or (None,)))]
    return list(at_edges(3, {"x": value}, tried, {"x": distribution}))


@pytest.mark.parametrize(
    ("value", "distribution", "side"),
    [
        (0.096, log_uniform(1e-3, 1e-1), "upper"),
        (0.00104, log_uniform(1e-3, 1e-1), "lower"),
        (0.004, log_uniform(1e-3, 1e-1), ""),  # within a twentieth only on the scale of numbers
        (0.07, log_uniform(1e-3, 1e-1), ""),
        (2.98, uniform(2.0, 3.0), "upper"),
        (2.02, uniform(2.0, 3.0), "lower"),
        (2.1, uniform(2.0, 3.0), ""),
        (0.001, uniform(0.0, 0.5), ""),  # there is nothing below
        (0.49, uniform(0.0, 0.5), "upper"),
        (0.999, uniform(0.0, 1.0), ""),  # nor above a whole
        (1, integer(1, 8), ""),
        (2, integer(2, 8), "lower"),
        (3, integer(2, 8), ""),
        (8, integer(2, 8), "upper"),
        (7, integer(2, 8), ""),
        (1000, integer(16, 1024), "upper"),
        (20, integer(16, 1024), "lower"),
        (20, integer(16, 1024, log=True), ""),
        (3, integer(2, 3), ""),
        (1e-2, choice(1e-3, 1e-4, 1e-2), "upper"),
        (1e-4, choice(1e-3, 1e-4, 1e-2), "lower"),
        (1e-3, choice(1e-3, 1e-4, 1e-2), ""),
        (64, choice(32, 64), ""),
        ("tanh", choice("relu", "gelu", "tanh"), ""),
        (2.0, choice(None, 1.0, 2.0), ""),
        (True, choice(False, True), ""),
        (float("inf"), choice(1.0, 2.0, float("inf")), ""),
    ],
)
def test_a_number_near_a_bound_is_at_the_edge(
    value: Any, distribution: Distribution, side: str
) -> None:
    sentences = said(value, distribution)
    assert [f" {side} edge " in sentence for sentence in sentences] == [True] * bool(side)


def test_the_sentence_says_which_where_and_what_to_do() -> None:
    [sentence] = said(0.0973, log_uniform(1e-3, 1e-1), 0.01)
    assert sentence == (
        "x of trial 3, 0.0973, is at the upper edge of its range (0.001 to 0.1), and better values "
        "may lie above it: widen the range there, in a study of another name"
    )


def test_what_was_the_same_in_all_trials_is_at_no_edge() -> None:
    assert said(8, integer(2, 8), 8, 8) == []
    assert said(8, integer(2, 8), 8, 7) != []


def test_a_run_says_it_before_its_last_line(
    small_study: MakeStudy, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates so small that nothing is learned but at the largest."""
    space = {"lr": choice(1e-9, 1e-8, 1e-2)}
    results = small_study(space=space, metrics="loss", trials=8, epochs=4).run(tmp_path)
    assert results.best is not None
    assert results.best.params == {"lr": 1e-2}
    [sentence] = results.at_edges
    *_, edge, last = capsys.readouterr().out.splitlines()
    assert edge == f"study small: {sentence}"
    assert f"lr of trial {results.best.number}, 0.01, is at the upper edge" in sentence
    assert "best is trial" in last
