"""The coordinate check of surrogates: how often it is wrong about right ones, how often it does not
see a fault, and how long it takes; with the slopes on which its bounds rest.

python -m benchmarks.coordinates [--quick] [--out FILE]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch

from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from benchmarks.worker_pool import worker_pool
from hydro_hpc.surrogate import CheckReport, check, check_ladder
from hydro_hpc.surrogate.coordinates.checking import make_batch
from hydro_hpc.surrogate.coordinates.rate import find_rate
from hydro_hpc.surrogate.coordinates.recipe import Ladder, Recipe
from tests.hydro_hpc.surrogate.coordinates.architectures import (
    CASES,
    GPT,
    VOCABULARY,
    WRONG_ATTENTION,
    Case,
)
from tests.hydro_hpc.surrogate.coordinates.faults import FAULTS, right
from tests.hydro_hpc.surrogate.coordinates.zoo import ZOO

SEEDS: Final = 10  # checks of each kind
FAULTY_SEEDS: Final = 5  # of each kind of fault, unless more is asked for; the tests take 10
QUICK_SEEDS: Final = 2
SEEDS_EACH: Final = 3  # that a check takes the mean of, as it does by itself
FAULTY_SEEDS_EACH: Final = 1  # more seeds and widths would only make a fault plainer
FAULTY_WIDTHS: Final = 3
STEPS: Final = 2
OPTIMIZERS: Final = ("sgd", "adam", "adamw")
FAULTY_OPTIMIZERS: Final = ("sgd", "adam")  # faults are alike under Adam and AdamW
MOMENTUM: Final = "sgd, momentum"
WEIGHT_DECAY: Final = {"adamw": 0.01}

RIGHT: Final = "none"
GROWING_HEADS: Final = "gpt of growing heads"
BY_THE_ROOT: Final = "attention by the root"

Row = dict[str, Any]
Figures = dict[str, Figure | NotTaken]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row: checks of one model with one fault, or none."""

    model: str
    fault: str
    optimizer: str
    seeds: int


def main() -> None:
    arguments = parse_arguments("How right the coordinate check is, and what it costs.")
    with worker_pool() as pool:
        figures, rows = check_figures(pool, quick=arguments.quick, more=True)
    write_result("coordinates", figures=figures, rows=rows, out=arguments.out)


def check_figures(pool: Executor, *, quick: bool, more: bool) -> tuple[Figures, list[Row]]:
    """The figures check_false_alarms, check_misses and check_seconds_gpt4, and a row for each
    model, optimizer and fault: those of the tests, or `more`.
    """
    rows = []
    for row in pool.map(row_of, cells(QUICK_SEEDS if quick else SEEDS, more=more)):
        print(*row.values(), flush=True)
        rows.append(row)
    seconds = sorted(pool.submit(seconds_gpt4).result() for _ in range(3))
    figures: Figures = {
        "check_false_alarms": count(r["checks"] - r["passed"] for r in rows if r["fault"] == RIGHT),
        "check_misses": count(r["passed"] for r in rows if r["fault"] != RIGHT),
        "check_seconds_gpt4": Figure(
            median=seconds[1], low=seconds[0], high=seconds[-1], n=len(seconds), unit="s, range"
        ),
    }
    return figures, rows


def cells(seeds: int, *, more: bool) -> Iterator[Cell]:
    """The published fault is one under SGD; under Adam it is no rate rule twice over."""
    names = [*CASES, *ZOO] if more else [*CASES]
    kinds = [(name, RIGHT) for name in names] + [(GROWING_HEADS, BY_THE_ROOT)]
    kinds += [(name, fault) for name in ("mlp", "resnet", "gpt") for fault in FAULTS]
    for model, fault in kinds:
        optimizers = OPTIMIZERS if more or fault == RIGHT else FAULTY_OPTIMIZERS
        for optimizer in (*optimizers, *([MOMENTUM] if model in ZOO else [])):
            checks = seeds if more or fault == RIGHT else min(seeds, FAULTY_SEEDS)
            yield Cell(model=model, fault=fault, optimizer=optimizer, seeds=checks)


def ladder_of(cell: Cell) -> tuple[Case, Ladder]:
    case = WRONG_ATTENTION if cell.fault == BY_THE_ROOT else {**CASES, **ZOO}[cell.model]
    make = FAULTS.get(cell.fault, right)
    return case, make(case)


def count(found: Iterable[int]) -> Figure:
    """The sum; the interval is the range over models, optimizers and faults."""
    each = [*found]
    return Figure(
        median=sum(each), low=min(each), high=max(each), n=len(each), unit="checks, range over rows"
    )


def row_of(cell: Cell) -> Row:
    """`slopes`: the lowest and highest of each kind of layer over all checks."""
    case, ladder = ladder_of(cell)
    batch = make_batch(case.example, case.targets)
    name, _, momentum = cell.optimizer.partition(", ")
    recipe = Recipe(
        optimizer=name,
        lr=0.0,
        weight_decay=WEIGHT_DECAY.get(name, 0.0),
        settings={"momentum": 0.9} if momentum else {},
        steps=STEPS,
    )
    recipe = replace(recipe, lr=find_rate(right(case), case.widths[0], 0, batch, recipe))
    is_right = cell.fault == RIGHT
    each = SEEDS_EACH if is_right else FAULTY_SEEDS_EACH
    began = time.perf_counter()
    reports = [
        check_ladder(
            ladder,
            widths=case.widths if is_right else case.widths[:FAULTY_WIDTHS],
            batch=batch,
            recipe=recipe,
            seeds=range(each * seed, each * (seed + 1)),
        )
        for seed in range(cell.seeds)
    ]
    return {
        "model": cell.model,
        "optimizer": cell.optimizer,
        "fault": cell.fault,
        "checks": len(reports),
        "passed": sum(report.passed for report in reports),
        "lr": recipe.lr,
        "seconds": (time.perf_counter() - began) / len(reports),
        "named": sorted({verdict.layer for report in reports for verdict in report.culprits}),
        "strongest": [strongest(report) for report in reports],
        "slopes": ranges(reports),
    }


def strongest(report: CheckReport) -> float:
    """The steepest slope of a step among the layers that are named, 0 if there is none."""
    steps = [verdict.slopes.step for verdict in report.culprits]
    return max((round(abs(x), 3) for x in steps if x is not None), default=0.0)


def ranges(reports: Iterable[CheckReport]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for report in reports:
        for verdict in report.layers:
            slopes = verdict.slopes
            for what in ("gain", "step", "start", "size", "change"):
                slope: float | None = getattr(slopes, what)
                if slope is not None and math.isfinite(slope):
                    found.setdefault(f"{verdict.role.value}, {what}", []).append(slope)
    return {what: [round(min(each), 3), round(max(each), 3)] for what, each in found.items()}


def seconds_gpt4() -> float:
    """Of `check` on a GPT of four layers, with the choice of widths and rate, on one core."""
    factory: Callable[..., GPT] = partial(GPT, width=256, layers=4, head_size=16)
    text = torch.randint(VOCABULARY, (4, 13), generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    check(factory, example=text[:, :-1], targets=text[:, 1:], optimizer="adamw", weight_decay=0.01)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
