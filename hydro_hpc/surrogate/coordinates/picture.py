"""A picture of a coordinate check: how far a step moves each layer, against the width.

One panel per kind of layer, one line per layer, relative to the narrowest width: where the rules
hold, the lines are flat. Layers that fail are drawn in red; those to which it points, thick, with
their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydro_hpc.errors import ConfigError
from hydro_hpc.surrogate.coordinates.records import Measure, Role
from hydro_hpc.surrogate.coordinates.report import CheckReport
from hydro_hpc.surrogate.coordinates.slopes import Curve
from hydro_hpc.surrogate.coordinates.verdict import LayerVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

SIZE_INCHES: Final = (12.0, 5.0)
DPI: Final = 100
MOST_NAMED: Final = 6  # in a panel
INK: Final = "#333333"
RIGHT: Final = "#3b5b92"
WRONG: Final = "#c0392b"
ROLES: Final = (Role.INPUT, Role.HIDDEN, Role.LOGITS, Role.OUTPUT, Role.VECTOR)


def image_format(path: Path) -> str:
    """What a picture of this name is written as: PNG if the name has no suffix. ConfigError if
    matplotlib does not write what the suffix says, or is missing.
    """
    canvas, _ = _drawing()
    suffix = path.suffix.removeprefix(".").lower() or "png"
    if suffix not in canvas.get_supported_filetypes():
        raise ConfigError(
            f"{path}: matplotlib writes no images that end in {path.suffix}; give a name that ends "
            "in .png, .svg or .pdf"
        )
    return suffix


def write_picture(report: CheckReport, path: Path) -> None:
    """Draws in the format that the name says, 1200x500 pixels as PNG."""
    written_as = image_format(path)
    canvas, made = _drawing()
    figure = made(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    canvas(figure)
    shown = [role for role in ROLES if any(verdict.role is role for verdict in report.layers)]
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, role in zip(panels, shown, strict=True):
        _draw_role(axes, role, report)
    panels[0].set_ylim(*_limits(report))
    panels[0].set_ylabel("movement by one step, narrowest = 1", color=INK)
    verdict = "passed" if report.passed else "failed"
    figure.suptitle(
        f"Coordinate check {verdict}: {report.optimizer}, lr {report.lr:.3g}",
        color=INK,
        fontweight="bold",
    )
    figure.savefig(path, format=written_as)


def _drawing() -> tuple[type[FigureCanvasAgg], type[Figure]]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("matplotlib is missing; run: pip install 'hydro-hpc[report]'") from None
    return FigureCanvasAgg, Figure


def moved(curves: Sequence[Curve], layer: str) -> Curve | None:
    """The first step in which a layer moved at every width."""
    steps = [c for c in curves if c.layer == layer and c.measure is Measure.STEP]
    return next((curve for curve in steps if curve.is_finite and min(curve.means) > 0), None)


def _limits(report: CheckReport) -> tuple[float, float]:
    """So wide that noise does not look like a slope."""
    curves = [moved(report.curves, verdict.layer) for verdict in report.layers]
    ends = [mean / curve.means[0] for curve in curves if curve for mean in curve.means]
    return min(0.2, *ends) / 1.25, max(5.0, *ends) * 1.25


def _draw_role(axes: Axes, role: Role, report: CheckReport) -> None:
    verdicts = [verdict for verdict in report.layers if verdict.role is role]
    named = [verdict for verdict in verdicts if verdict in report.culprits]
    for verdict in verdicts:
        _draw_layer(axes, verdict, report, is_named=verdict in named)
    axes.set_title(role.value, color=INK, fontsize=11)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(report.widths, [str(width) for width in report.widths])
    axes.set_xlabel("width", color=INK)
    axes.axhline(1.0, color=INK, linewidth=0.6, linestyle=(0, (4, 3)))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    names = [verdict.layer for verdict in named[:MOST_NAMED]]
    if len(named) > MOST_NAMED:
        names.append(f"and {len(named) - MOST_NAMED} more")
    falls = sum(verdict.slopes.step or 0.0 for verdict in named) < 0
    axes.text(  # where the lines do not go
        0.97,
        0.98 if falls else 0.02,
        "\n".join(names),
        transform=axes.transAxes,
        ha="right",
        va="top" if falls else "bottom",
        color=WRONG,
        fontsize=8,
    )


def _draw_layer(axes: Axes, verdict: LayerVerdict, report: CheckReport, *, is_named: bool) -> None:
    curve = moved(report.curves, verdict.layer)
    if curve is not None:
        axes.plot(
            curve.widths,
            [mean / curve.means[0] for mean in curve.means],
            color=RIGHT if verdict.passed else WRONG,
            linewidth=2.0 if is_named else 1.0,
            alpha=0.9 if is_named else 0.6,
            marker="o",
            markersize=3,
        )
