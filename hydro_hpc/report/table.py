"""The one table of a run, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hydro_hpc.report.harvest import harvest
from hydro_hpc.report.lane_status import slowdown_text
from hydro_hpc.report.summary import RunReport

FOOTNOTES = (
    "slowdown: steps that lend their bubbles against steps that keep them shut, in pairs of the "
    "same run; in brackets its 95% interval. It is the trimmed mean of the pairs, so not quite the "
    "quotient of the two step times, which are medians.",
    "bubble: the training waits 2 ms or more in communication. harvest: device time of training "
    "trials in bubbles. Both from the first to the last training run, without the shut steps.",
)


def table(report: RunReport) -> RenderableType:
    """Returns the table, with footnotes that say what is counted and what is not enforced here."""
    rows = Table(
        title=f"Hydro on Slurm {report.slurm_version}, {report.nodes} nodes",
        show_header=False,
        title_justify="left",
    )
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in _primary(report):
        rows.add_row(name, value)
    rows.add_section()
    for name, value in _bubbles(report):
        rows.add_row(name, value)
    rows.add_section()
    for name, value in _study(report):
        rows.add_row(name, value)
    notes = [*FOOTNOTES, *(f"not enforced here: {text}" for text in report.not_enforced)]
    return Group(rows, *(Text(note, style="dim") for note in notes))


def _primary(report: RunReport) -> list[tuple[str, str]]:
    slowdown = report.slowdown
    steps = max((stage.num_steps for stage in report.stages), default=0)
    rows = [
        ("training job", f"job {report.primary_job}, {len(report.stages)} stages, {steps} steps"),
        ("slowdown", slowdown_text(slowdown)),
    ]
    if slowdown:
        open_ms, shut_ms = slowdown.step_open_ns / 1e6, slowdown.step_shut_ns / 1e6
        rows.append(("step", f"{open_ms:.1f} ms with bubbles lent, {shut_ms:.1f} ms shut"))
    if trips := max((stage.trips for stage in report.stages), default=0):
        rows.append(("guard", f"over its bound {trips} times, held bubbles shut then"))
    return rows


def _bubbles(report: RunReport) -> list[tuple[str, str]]:
    rows = []
    for lane in report.lanes:
        account = harvest(lane)
        samples = lane.trial.num_samples if lane.trial else 0
        rows += [
            (
                f"stage {account.stage} ({lane.place.node})",
                f"{account.bubble_s:.1f} s of bubbles, {account.bubble_share:.0%} of the time; "
                f"{account.open_s:.1f} s of them lent",
            ),
            (
                "  harvest",
                f"{account.harvest_s:.1f} s = {account.harvest_share:.0%} of the bubbles; "
                f"{samples:,} samples trained",
            ),
        ]
    return rows


def _study(report: RunReport) -> list[tuple[str, str]]:
    study = report.study
    same = "the same" if study.is_same else "NOT the same"
    return [
        ("gang", f"{study.ranks} MPI ranks, {study.mpi}"),
        ("trials", f"{study.completed} completed, {study.pruned} pruned, {study.failed} failed"),
        ("best trial", f"{study.best_value:.4f} with {_params(study.best_params)}"),
        ("alone, unfused", f"{study.rerun_value:.4f}: {same}"),
        ("in all", f"{report.wall_s:.0f} s"),
    ]


def _params(params: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )
