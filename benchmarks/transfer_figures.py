"""What the rows of `benchmarks/transfer.py` say: pure functions over them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.result_file import Figure, NotTaken

Rows = list[dict[str, Any]]


def curve(rows: Rows, model: str, parametrization: str, width: int) -> dict[float, float]:
    """Mean validation loss by learning rate; infinite where a seed diverged."""
    return {
        row["lr"]: math.inf if row["loss"] is None else row["loss"]
        for row in rows
        if (row["model"], row["parametrization"], row["width"]) == (model, parametrization, width)
    }


def best_lr(rows: Rows, model: str, parametrization: str, width: int) -> float:
    losses = curve(rows, model, parametrization, width)
    return min(losses, key=losses.__getitem__)


def lr_steps_off(rows: Rows, parametrization: str) -> Figure:
    """How many grid steps the best rate of a surrogate is from its target's: the worst."""
    found = {
        f"{model}, width {width}": abs(
            math.log2(
                best_lr(rows, model, parametrization, width) / best_lr(rows, model, "mup", target)
            )
        )
        for model, width, target in surrogates(rows, parametrization)
    }
    return worst(found, "steps of a factor of 2")


def worst_loss_gap(rows: Rows, parametrization: str) -> Figure | NotTaken:
    """The target's loss at the rate that was best for a surrogate, over its own best, minus 1.
    Not taken if the target diverges there.
    """
    found = {}
    for model, width, target in surrogates(rows, parametrization):
        losses = curve(rows, model, "mup", target)
        transferred = losses[best_lr(rows, model, parametrization, width)]
        found[f"{model}, width {width}"] = transferred / min(losses.values()) - 1
    diverged = [where for where, gap in found.items() if math.isinf(gap)]
    if diverged:
        return NotTaken(why=f"the target diverges at the rate of {', '.join(diverged)}")
    return worst(found, "of the target's best loss")


def surrogates(rows: Rows, parametrization: str) -> Iterator[tuple[str, int, int]]:
    """(model, width, its target's width) of each that was trained so."""
    targets: dict[str, int] = {}
    for row in rows:
        targets[row["model"]] = max(row["width"], targets.get(row["model"], 0))
    found = [(r["model"], r["width"]) for r in rows if r["parametrization"] == parametrization]
    for model, width in dict.fromkeys(found):
        if width != targets[model]:
            yield model, width, targets[model]


def worst(found: dict[str, float], unit: str) -> Figure:
    where = max(found, key=found.__getitem__)
    return Figure(
        median=found[where],
        low=min(found.values()),
        high=found[where],
        n=len(found),
        unit=f"{unit}, range (worst: {where})",
    )


def correlation_figure(rows: Rows, what: str) -> Figure | NotTaken:
    """Of the model that is ranked worst: the median and range over its pairs of seeds."""
    by_model: dict[str, list[float]] = {}
    for row in rows:
        if row.get("correlation") == what and row["spearman"] is not None:
            by_model.setdefault(row["model"], []).append(row["spearman"])
    if not by_model:
        return NotTaken(why="too many runs diverged")
    where = min(by_model, key=lambda model: statistics.median(by_model[model]))
    found = by_model[where]
    return Figure(
        median=statistics.median(found),
        low=min(found),
        high=max(found),
        n=len(found),
        unit=f"rank correlation, range over pairs of seeds (worst: {where})",
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """The rank correlation of two lists of losses, without what diverged in either."""
    pairs = [pair for pair in zip(one, other, strict=True) if all(map(math.isfinite, pair))]
    if len(pairs) < 3:
        return {"spearman": None, "configurations": len(pairs)}
    left, right = zip(*pairs, strict=True)
    value = statistics.correlation(ranks(left), ranks(right))
    return {"spearman": value, "configurations": len(pairs)}


def ranks(values: Sequence[float]) -> list[int]:
    """Places in order of size; equal ones, which losses are not, in order of their coming."""
    ordered = sorted(range(len(values)), key=values.__getitem__)
    places = [0] * len(values)
    for place, number in enumerate(ordered):
        places[number] = place
    return places
