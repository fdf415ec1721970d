"""The coordinate check of surrogates: how often it is wrong about right ones, how often it does not
see a fault, and how long it takes; with the slopes on which its bounds rest.

python -m benchmarks.coordinates [--quick] [--out FILE]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import torch

from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from hydro_hpc.surrogate import CheckReport, check, check_ladder
from hydro_hpc.surrogate.coordinates.checking import make_batch
from hydro_hpc.surrogate.coordinates.rate import find_rate
from hydro_hpc.surrogate.coordinates.training import Ladder, Recipe
from tests.hydro_hpc.surrogate.coordinates.architectures import (
    CASES,
    GPT,
    VOCABULARY,
    WRONG_ATTENTION,
    Case,
)
from tests.hydro_hpc.surrogate.coordinates.faults import FAULTS, right

SEEDS: Final = 10  # checks of each kind
QUICK_SEEDS: Final = 2
SEEDS_EACH: Final = 3  # that a check takes the mean of
STEPS: Final = 2
OPTIMIZERS: Final = ("sgd", "adam", "adamw")
WEIGHT_DECAY: Final = {"sgd": 0.0, "adam": 0.0, "adamw": 0.01}

Row = dict[str, Any]
Figures = dict[str, Figure | NotTaken]


def main() -> None:
    arguments = parse_arguments("How right the coordinate check is, and what it costs.")
    torch.set_num_threads(1)
    figures, rows = check_figures(quick=arguments.quick)
    write_result("coordinates", figures=figures, rows=rows, out=arguments.out)


def check_figures(*, quick: bool) -> tuple[Figures, list[Row]]:
    """The figures check_false_alarms, check_misses and check_seconds_gpt4, and a row for each
    model, optimizer and fault.
    """
    seeds = range(QUICK_SEEDS if quick else SEEDS)
    alarms = [*rows_of(right_cases(), seeds)]
    faults = [*rows_of(wrong_cases(), seeds)]
    seconds = sorted(seconds_gpt4() for _ in range(3))
    figures: Figures = {
        "check_false_alarms": count(row["checks"] - row["passed"] for row in alarms),
        "check_misses": count(row["passed"] for row in faults),
        "check_seconds_gpt4": Figure(
            median=seconds[1], low=seconds[0], high=seconds[-1], n=len(seconds), unit="s, range"
        ),
    }
    return figures, alarms + faults


def count(found: Iterable[int]) -> Figure:
    """The sum; the interval is the range over models, optimizers and faults."""
    each = [*found]
    return Figure(
        median=sum(each), low=min(each), high=max(each), n=len(each), unit="checks, range over rows"
    )


def right_cases() -> Iterator[tuple[str, str, Case, Ladder]]:
    for name, case in CASES.items():
        yield name, "none", case, right(case)


def wrong_cases() -> Iterator[tuple[str, str, Case, Ladder]]:
    """The published fault is one under SGD; under Adam it is no rate rule twice over."""
    yield "gpt of growing heads", "attention by the root", WRONG_ATTENTION, right(WRONG_ATTENTION)
    for name in ("mlp", "resnet", "gpt"):
        for fault, ladder in FAULTS.items():
            yield name, fault, CASES[name], ladder(CASES[name])


def rows_of(cases: Iterable[tuple[str, str, Case, Ladder]], seeds: range) -> Iterator[Row]:
    for name, fault, case, ladder in cases:
        for optimizer in OPTIMIZERS:
            row = row_of(case, optimizer, ladder, seeds)
            row = {"model": name, "optimizer": optimizer, "fault": fault, **row}
            print(name, optimizer, fault, row["passed"], "of", row["checks"], "passed", flush=True)
            yield row


def row_of(case: Case, optimizer: str, ladder: Ladder, seeds: range) -> Row:
    """`slopes`: the lowest and highest of each kind of layer over all checks."""
    batch = make_batch(case.example, case.targets)
    recipe = Recipe(optimizer=optimizer, lr=0.0, weight_decay=WEIGHT_DECAY[optimizer], steps=STEPS)
    lr = find_rate(right(case), case.widths[0], 0, batch, recipe)
    recipe = Recipe(optimizer=optimizer, lr=lr, weight_decay=recipe.weight_decay, steps=STEPS)
    began = time.perf_counter()
    reports = [
        check_ladder(
            ladder,
            widths=case.widths,
            batch=batch,
            recipe=recipe,
            seeds=range(SEEDS_EACH * seed, SEEDS_EACH * (seed + 1)),
        )
        for seed in seeds
    ]
    return {
        "checks": len(reports),
        "passed": sum(report.passed for report in reports),
        "lr": lr,
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
            for what in ("step", "start", "size", "change"):
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
