"""`summary.json` of a run: what other tools read. Pure.

The slowdown is the guard's: of all stages' accounts the highest, since a step is as slow as its
slowest stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydro_hpc.report.harvest import harvest
from hydro_hpc.report.recording import LaneRecording, Slowdown, StageFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """How a study ended, and the value of its best trial when it was trained alone."""

    completed: int
    pruned: int
    failed: int
    best_value: float
    best_params: dict[str, Any]
    rerun_value: float
    ranks: int
    mpi: str

    @property
    def is_same(self) -> bool:
        """Fused in bubbles or alone: it must be the same value, bit by bit."""
        return self.best_value == self.rerun_value


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """All that a finished run is reported from."""

    slurm_version: str
    nodes: int
    primary_job: int
    lanes: Sequence[LaneRecording]
    study: StudyOutcome
    not_enforced: Sequence[str]
    wall_s: float

    @property
    def stages(self) -> list[StageFacts]:
        return [lane.stage for lane in self.lanes if lane.stage is not None]

    @property
    def slowdown(self) -> Slowdown | None:
        found = [stage.slowdown for stage in self.stages if stage.slowdown is not None]
        return max(found, key=lambda slowdown: slowdown.value, default=None)


def summary(report: RunReport) -> dict[str, Any]:
    """Returns the JSON data of schema 1; what was not measured is null."""
    study = report.study
    return {
        "schema": 1,
        "slurm_version": report.slurm_version,
        "nodes": report.nodes,
        "primary": _primary(report),
        "bubbles": [_bubbles(lane) for lane in report.lanes],
        "trials": {
            "completed": study.completed,
            "pruned": study.pruned,
            "failed": study.failed,
            "best": {
                "value": study.best_value,
                "params": study.best_params,
                "rerun_value": study.rerun_value,
            },
        },
        "gang": {"ranks": study.ranks, "mpi": study.mpi},
        "wall_s": round(report.wall_s, 1),
    }


def _primary(report: RunReport) -> dict[str, Any]:
    slowdown = report.slowdown
    return {
        "job_id": report.primary_job,
        "stages": max((stage.num_stages for stage in report.stages), default=0),
        "steps": max((stage.num_steps for stage in report.stages), default=0),
        "step_ms_shut": slowdown.step_shut_ns / 1e6 if slowdown else None,
        "step_ms_open": slowdown.step_open_ns / 1e6 if slowdown else None,
        "slowdown": slowdown.value if slowdown else None,
        "slowdown_low": slowdown.low if slowdown else None,
        "slowdown_high": slowdown.high if slowdown else None,
        "pairs": slowdown.pairs if slowdown else 0,
    }


def _bubbles(lane: LaneRecording) -> dict[str, Any]:
    account = harvest(lane)
    return {
        "stage": account.stage,
        "bubble_s": account.bubble_s,
        "open_s": account.open_s,
        "harvest_s": account.harvest_s,
        "harvest_share": account.harvest_share,
        "bubble_share": account.bubble_share,
    }
