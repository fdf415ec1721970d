"""Does a learning rate that is best for a narrow surrogate suit its target, too? Real training of
small models on CPU, under maximal update parametrization and under the standard one.

python -m benchmarks.transfer [--quick] [--more] [--out FILE] [--picture FILE]
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.coordinates import check_figures
from benchmarks.result_file import Figure, NotTaken, make_parser, write_result
from benchmarks.transfer_figures import (
    Rows,
    best_lr,
    correlation_figure,
    lr_steps_off,
    spearman,
    worst_loss_gap,
)
from benchmarks.transfer_models import MORE_TASKS, TASKS, Task
from benchmarks.transfer_picture import draw
from benchmarks.transfer_training import (
    Configuration,
    Parametrization,
    loss_after_training,
    random_configurations,
)
from benchmarks.worker_pool import worker_pool
from hydro_hpc.errors import ConfigError
from hydro_hpc.surrogate.coordinates.picture import image_format

RANKED_SEEDS: Final = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    seeds: int = 3
    configurations: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    task: str
    parametrization: Parametrization
    width: int
    configuration: Configuration
    seed: int


def main() -> None:
    parser = make_parser("How well a learning rate transfers from narrow surrogates to a target.")
    parser.add_argument(
        "--more",
        action="store_true",
        help="SGD, the ranks of each task, and the check on further models: in an hour",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="loss against learning rate")
    arguments = parser.parse_args()
    if arguments.picture:
        try:
            image_format(arguments.picture)
        except ConfigError as error:
            parser.error(str(error))
    extent = Extent(seeds=1, configurations=12) if arguments.quick else Extent()
    tasks = (*TASKS, *MORE_TASKS) if arguments.more else TASKS
    began = time.perf_counter()
    curves: Rows = []
    ranks: Rows = []
    with worker_pool() as pool:
        for task in map(quick, tasks) if arguments.quick else tasks:
            curves += curves_of(task, extent, pool)
            if task.is_ranked or arguments.more:
                best = best_lr(curves, task.name, "mup", task.target)
                ranks += ranks_of(task, best, extent, pool)
        of_check, checks = check_figures(pool, quick=arguments.quick, more=arguments.more)
    seconds = time.perf_counter() - began
    figures = figures_of(curves, ranks) | of_check
    figures["seconds"] = Figure(median=seconds, low=seconds, high=seconds, n=1, unit="s, this run")
    write_result("transfer", figures=figures, rows=curves + ranks + checks, out=arguments.out)
    if arguments.picture:
        draw(curves, arguments.picture)


def quick(task: Task) -> Task:
    """Fewer widths, a shorter grid and shorter ranked trainings; not fewer steps, with which the
    best rates of narrow models are others. With one seed, which this is for, the best may be a
    chance.
    """
    ranked_steps = task.ranked_steps // 2
    return replace(task, ranked_steps=ranked_steps, widths=task.widths[::2], lrs=task.lrs[1:])


def figures_of(curves: Rows, ranks: Rows) -> dict[str, Figure | NotTaken]:
    return {
        "lr_steps_off_mup": lr_steps_off(curves, "mup"),
        "loss_gap_mup": worst_loss_gap(curves, "mup"),
        "lr_steps_off_sp": lr_steps_off(curves, "sp"),
        "loss_gap_sp": worst_loss_gap(curves, "sp"),
        "spearman_mup": correlation_figure(ranks, "mup"),
        "spearman_mup_eighth": correlation_figure(ranks, "mup, an eighth"),
        "spearman_ceiling": correlation_figure(ranks, "ceiling"),
    }


def curves_of(task: Task, extent: Extent, pool: Executor) -> Rows:
    """One row for each parametrization, width and learning rate. The target is its own surrogate,
    so that its standard parametrization is not trained again.
    """
    cells = [
        (parametrization, width, lr)
        for parametrization, widths in parametrizations(task)
        for width in sorted(widths, reverse=True)  # the longest runs first
        for lr in task.lrs
    ]
    runs = [
        Run(
            task=task.name,
            parametrization=parametrization,
            width=width,
            configuration=Configuration(lr=lr),
            seed=seed,
        )
        for parametrization, width, lr in cells
        for seed in range(extent.seeds)
    ]
    losses = trained(task, runs, pool)
    rows = []
    for parametrization, width, lr in cells:
        found = [next(losses) for _ in range(extent.seeds)]
        row = {"model": task.name, "parametrization": parametrization, "width": width, "lr": lr}
        rows.append(row | _mean_and_spread(found))
        print(rows[-1], flush=True)
    return rows


def parametrizations(task: Task) -> list[tuple[Parametrization, tuple[int, ...]]]:
    """As they are, the narrowest, which drift most and take least time."""
    return [("mup", (*task.widths, task.target)), ("sp", task.widths[:1])]


def ranks_of(task: Task, best: float, extent: Extent, pool: Executor) -> Rows:
    """How surrogates and target rank the same configurations: a row of losses for each width and
    seed, and one correlation for each pair of them. `ceiling`: two seeds of the target itself.
    """
    configurations = random_configurations(best, extent.configurations)
    cells = [(task.target // by, seed) for by in (1, 4, 8) for seed in RANKED_SEEDS]
    runs = [
        Run(task=task.name, parametrization="mup", width=width, configuration=c, seed=seed)
        for width, seed in cells
        for c in configurations
    ]
    losses = trained(replace(task, steps=task.ranked_steps), runs, pool)
    found = {cell: [next(losses) for _ in configurations] for cell in cells}
    pairs = [("ceiling", (task.target, 0), (task.target, 1))]
    pairs += [
        (what, (width, seed), (task.target, other))
        for what, width in (("mup", task.target // 4), ("mup, an eighth", task.target // 8))
        for seed in RANKED_SEEDS
        for other in RANKED_SEEDS
    ]
    rows: Rows = [
        {
            "model": task.name,
            "ranked": width,
            "seed": seed,
            "losses": [loss if math.isfinite(loss) else None for loss in found[width, seed]],
        }
        for width, seed in cells
    ]
    for what, one, other in pairs:
        row = {"model": task.name, "correlation": what, "width": one[0]}
        rows.append(row | spearman(found[one], found[other]))
        print(rows[-1], flush=True)
    return rows


def trained(task: Task, runs: Sequence[Run], pool: Executor) -> Iterator[float]:
    """The loss of each run, in order; infinite where it diverged."""
    return pool.map(_train, runs, [task.steps] * len(runs))


def _train(run: Run, steps: int) -> float:
    """By the task's name: what tasks are made of does not pickle."""
    [task] = [task for task in (*TASKS, *MORE_TASKS) if task.name == run.task]
    shown = replace(task, steps=steps)
    return loss_after_training(shown, run.parametrization, run.width, run.configuration, run.seed)


def _mean_and_spread(losses: Sequence[float]) -> dict[str, Any]:
    """`loss` is None where a seed diverged: no mean is to be had."""
    diverged = sum(math.isinf(loss) for loss in losses)
    if diverged:
        return {"loss": None, "spread": None, "diverged": diverged}
    return {
        "loss": statistics.fmean(losses),
        "spread": max(losses) - min(losses),
        "diverged": 0,
    }


if __name__ == "__main__":
    main()
