"""The picture of `benchmarks/transfer.py`: loss against learning rate, one curve per width."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from benchmarks.transfer_figures import Rows, best_lr, curve
from hydro_hpc.surrogate.coordinates.picture import image_format

INK: Final = "#333333"
COLUMN_INCHES: Final = 3.9
HEIGHT_INCHES: Final = 6.4
DPI: Final = 110
TICKS: Final = (1, 2, 3, 4, 6)  # of each power of ten
TITLES: Final = {"mup": "surrogates (muP)", "sp": "the same models as they are"}


def draw(rows: Rows, path: Path) -> None:
    """One column per model; a dot marks each curve's best, a line the target's best rate."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    size = (COLUMN_INCHES * len(models), HEIGHT_INCHES)
    figure, grid = pyplot.subplots(
        2, len(models), figsize=size, dpi=DPI, sharex="col", sharey="col", squeeze=False
    )
    for line, parametrization in enumerate(TITLES):
        for column, model in enumerate(models):
            _draw_one(grid[line][column], rows, model, parametrization)
            grid[line][column].set_title(f"{model}: {TITLES[parametrization]}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("learning rate of the target")
    for axes in grid[0]:
        axes.legend(title="width", fontsize=8, title_fontsize=8, framealpha=1, edgecolor="none")
    for axes in grid[:, 0]:
        axes.set_ylabel("validation loss")
    figure.tight_layout()
    figure.savefig(path, format=image_format(path))


def _draw_one(axes: Any, rows: Rows, model: str, parametrization: str) -> None:
    from matplotlib import colormaps, ticker

    widths = sorted({row["width"] for row in rows if row["model"] == model})
    target = widths[-1]
    for place, width in enumerate(widths):
        is_target = width == target
        losses = curve(rows, model, "mup" if is_target else parametrization, width)
        finite = {lr: loss for lr, loss in sorted(losses.items()) if math.isfinite(loss)}
        if not finite:
            continue
        color = INK if is_target else colormaps["viridis"](0.15 + 0.7 * place / len(widths))
        label = f"{width}, target" if is_target else str(width)
        axes.plot(finite.keys(), finite.values(), color=color, linewidth=1.6, label=label)
        best = min(finite.items(), key=lambda point: point[1])
        axes.plot(*best, "o", color=color, markersize=5)
    axes.axvline(best_lr(rows, model, "mup", target), color=INK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=TICKS))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.tick_params(which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
