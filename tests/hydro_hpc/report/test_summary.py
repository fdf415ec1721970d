from __future__ import annotations

import dataclasses
import io
import json

from rich.console import Console

from hydro_hpc.report.summary import RunReport, StudyOutcome, summary
from hydro_hpc.report.table import table
from tests.hydro_hpc.report.recordings import SLOWDOWN, lane, shared_steps

STUDY = StudyOutcome(
    completed=32,
    pruned=1,
    failed=2,
    best_value=0.975,
    best_params={"lr": 0.01, "width": 64},
    rerun_value=0.975,
    ranks=2,
    mpi="Open MPI v5",
)
REPORT = RunReport(
    slurm_version="22.05.8",
    nodes=2,
    primary_job=7,
    lanes=[shared_steps(0), shared_steps(1)],
    study=STUDY,
    not_enforced=["devices are not constrained"],
    wall_s=12.34,
)


def shown(report: RunReport) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_summary_has_exactly_the_promised_keys() -> None:
    data = json.loads(json.dumps(summary(REPORT)))
    assert list(data) == [
        *("schema", "slurm_version", "nodes", "primary", "bubbles", "trials", "gang", "wall_s")
    ]
    assert data["schema"] == 1
    assert set(data["primary"]) == {
        *("job_id", "stages", "steps", "step_ms_shut", "step_ms_open"),
        *("slowdown", "slowdown_low", "slowdown_high", "pairs"),
    }
    assert [set(entry) for entry in data["bubbles"]] == [
        {"stage", "bubble_s", "open_s", "harvest_s", "harvest_share", "bubble_share"}
    ] * 2
    assert data["trials"] == {
        "completed": 32,
        "pruned": 1,
        "failed": 2,
        "best": {"value": 0.975, "params": {"lr": 0.01, "width": 64}, "rerun_value": 0.975},
    }
    assert data["gang"] == {"ranks": 2, "mpi": "Open MPI v5"}


def test_summary_takes_the_account_of_the_slowest_stage() -> None:
    slower = dataclasses.replace(SLOWDOWN, value=0.02)
    lanes = [lane(stage=0), lane(stage=1, slowdown=slower)]
    primary = summary(dataclasses.replace(REPORT, lanes=lanes))["primary"]
    assert primary["slowdown"] == 0.02
    assert primary["step_ms_shut"] == 100


def test_an_unknown_slowdown_is_null_not_zero() -> None:
    lanes = [lane(stage=0, slowdown=None)]
    report = dataclasses.replace(REPORT, lanes=lanes)
    primary = summary(report)["primary"]
    assert primary["slowdown"] is None
    assert primary["pairs"] == 0
    assert "not known yet" in shown(report)


def test_table_shows_the_slowdown_with_its_interval_and_bound() -> None:
    text = shown(REPORT)
    assert "+1.2% [-0.3, +2.7] of at most 5%, 40 pairs" in text
    assert "not enforced here: devices are not constrained" in text
    assert "0.9750: the same" in text


def test_table_does_not_hide_another_value() -> None:
    other = dataclasses.replace(STUDY, rerun_value=0.95)
    assert "NOT the same" in shown(dataclasses.replace(REPORT, study=other))
