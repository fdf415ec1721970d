"""What the rows of the transfer benchmark say, and that its models train."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from benchmarks import transfer
from benchmarks.result_file import Figure, NotTaken
from benchmarks.transfer_figures import (
    Rows,
    correlation_figure,
    lr_steps_off,
    spearman,
    worst_loss_gap,
)
from benchmarks.transfer_models import TASKS, Task
from benchmarks.transfer_training import Configuration, loss_after_training, schedule


def curve(parametrization: str, width: int, losses: dict[float, float | None]) -> Rows:
    facts = {"model": "m", "parametrization": parametrization, "width": width}
    return [{**facts, "lr": lr, "loss": loss} for lr, loss in losses.items()]


TARGET = curve("mup", 64, {0.25: 2.0, 0.5: 1.0, 1.0: 1.5, 2.0: None})
ROWS = [
    *TARGET,
    *curve("mup", 8, {0.25: 2.1, 0.5: 2.0, 1.0: 1.9, 2.0: None}),
    *curve("mup", 16, {0.25: 1.8, 0.5: 1.6, 1.0: 1.7, 2.0: None}),
    *curve("sp", 8, {0.25: 1.8, 0.5: 1.7, 1.0: 1.6, 2.0: 1.5}),
]


def test_a_picture_of_no_image_format_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "argv", ["transfer", "--quick", "--picture", "curves.xyz"])
    monkeypatch.setattr(transfer, "worker_pool", pytest.fail)
    with pytest.raises(SystemExit):
        transfer.main()
    said = capsys.readouterr().err
    assert "error: curves.xyz: matplotlib writes no images that end in .xyz; give a nam" in said


def test_the_worst_surrogate_counts() -> None:
    off = lr_steps_off(ROWS, "mup")
    assert (off.median, off.low, off.n) == (1.0, 0.0, 2)
    assert off.unit == "steps of a factor of 2, range (worst: m, width 8)"
    gap = worst_loss_gap(ROWS, "mup")
    assert isinstance(gap, Figure)
    assert (gap.median, gap.low) == (0.5, 0.0)


def test_a_rate_at_which_the_target_diverges_is_said() -> None:
    rows = [row for row in ROWS if row["width"] != 16]
    assert lr_steps_off(rows, "sp").median == 2.0
    why = NotTaken(why="the target diverges at the rate of m, width 8")
    assert worst_loss_gap(rows, "sp") == why


def test_ranks_are_compared_without_what_diverged() -> None:
    assert spearman([1, 2, 3, math.inf], [10, 40, 1000, 2]) == {
        "spearman": pytest.approx(1.0),
        "configurations": 3,
    }
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1])["spearman"] == pytest.approx(-1.0)
    assert spearman([1, math.inf, 3], [1, 2, 3])["spearman"] is None


def test_the_model_that_is_ranked_worst_counts() -> None:
    values = [("a", 0.9), ("a", 0.8), ("a", 0.95), ("b", 0.75), ("b", None), ("b", 0.5)]
    rows: Rows = [
        {"model": model, "correlation": "mup", "spearman": value} for model, value in values
    ]
    found = correlation_figure(rows, "mup")
    assert isinstance(found, Figure)
    assert (found.median, found.n) == (0.625, 2)
    assert isinstance(correlation_figure(rows, "ceiling"), NotTaken)


def test_rates_rise_and_fall() -> None:
    assert list(schedule(6, 1 / 3)) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_models_train_on_what_they_are_given(task: Task) -> None:
    """A narrow surrogate is better than guessing after few steps, and diverges at a huge rate."""
    short = replace(task, steps=30, batch_size=16)
    rate = task.lrs[len(task.lrs) // 2]
    loss = loss_after_training(short, "mup", 32, Configuration(lr=rate), 0)
    assert math.isfinite(loss)
    assert loss_after_training(short, "mup", 32, Configuration(lr=1e4), 0) == math.inf
    assert loss_after_training(short, "mup", 32, Configuration(lr=rate), 0) == loss
