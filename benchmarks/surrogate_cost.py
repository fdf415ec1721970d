"""What surrogates cost against their target: time and memory of a step at a half, a fourth and an
eighth of its width, alone and as a bundle that takes no more memory than the target.

python -m benchmarks.surrogate_cost [--quick] [--out FILE]           (on an otherwise idle machine)
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from benchmarks.transfer_models import TASKS, Task
from hydro_hpc.report.surrogate_cost import Cost, costs
from hydro_hpc.study import Study, log_uniform
from hydro_hpc.surrogate import Narrow

REPEATS: Final = 7
QUICK_REPEATS: Final = 3


def main() -> None:
    arguments = parse_arguments("Time and memory of surrogates, beside those of their target.")
    rows: list[dict[str, Any]] = []
    for task in TASKS:
        study = study_of(task)
        for repeat in range(QUICK_REPEATS if arguments.quick else REPEATS):
            rows += rows_of(task.name, repeat, costs(study))
            print(*(row.values() for row in rows[-3:]), sep="\n", flush=True)
    figures: dict[str, Figure | NotTaken] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        for shrink in sorted({row["shrink"] for row in rows}):
            seen = [row for row in rows if (row["model"], row["shrink"]) == (name, shrink)]
            for what in ("alone", "bundled", "memory"):
                key = f"{name.split(',')[0]}_s{shrink}_{what}"
                figures[key] = as_figure(row[what] for row in seen)
    write_result("surrogate_cost", figures=figures, rows=rows, out=arguments.out)


def study_of(task: Task) -> Study:
    """Of the same model, data and batch size as in `benchmarks.transfer`."""
    return Study(
        name=task.name.replace(", ", "-"),
        model=task.factory,
        data=partial(data_of, task),
        loss=nn.CrossEntropyLoss(),
        optimizer=task.optimizer,
        space={"lr": log_uniform(min(task.lrs), max(task.lrs))},
        batch_size=task.batch_size,
        surrogate=Narrow(by=8),
    )


def data_of(task: Task) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    train = task.batch(task.batch_size, torch.Generator().manual_seed(0))
    return *train, *task.validation()


def rows_of(name: str, repeat: int, found: Iterable[object]) -> list[dict[str, Any]]:
    """A row for each width: its milliseconds and bytes, and how many times the target has those."""
    target, *narrow = (one for one in found if isinstance(one, Cost))
    return [
        {
            "model": name,
            "repeat": repeat,
            "shrink": cost.shrink,
            "width": cost.width,
            "slots": cost.slots,
            "target_ms": target.step_ms,
            "step_ms": cost.step_ms,
            "bundled_ms": cost.bundled_ms,
            "target_bytes": target.memory_bytes,
            "bytes": cost.memory_bytes,
            "alone": target.step_ms / cost.step_ms,
            "bundled": target.step_ms / (cost.bundled_ms or cost.step_ms),
            "memory": target.memory_bytes / cost.memory_bytes,
        }
        for cost in narrow
    ]


def as_figure(values: Iterable[float]) -> Figure:
    """Of one trial of the target over one of the surrogate, with the range over repeats."""
    seen = [*values]
    return Figure(
        median=statistics.median(seen),
        low=min(seen),
        high=max(seen),
        n=len(seen),
        unit="times less than the target, range",
    )


if __name__ == "__main__":
    main()
