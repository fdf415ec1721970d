"""Recordings for tests, from short lists of milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

from hydro_hpc.page_layout import PrimaryState
from hydro_hpc.report.lanes import LanePlace
from hydro_hpc.report.recording import (
    LaneRecording,
    Run,
    Slowdown,
    StageFacts,
    Step,
    TrialFacts,
    Wait,
)

MS = 1_000_000

SLOWDOWN = Slowdown(
    value=0.012,
    low=-0.003,
    high=0.027,
    pairs=40,
    bound=0.05,
    step_open_ns=101_200_000,
    step_shut_ns=100_000_000,
)


def wait(start_ms: float, end_ms: float, *, opened_ms: float = 0, predicted_ms: float = 0) -> Wait:
    return Wait(
        start_ns=int(start_ms * MS),
        end_ns=int(end_ms * MS),
        step=0,
        predicted_ns=int(predicted_ms * MS),
        opened_ns=int(opened_ms * MS),
    )


def step(start_ms: float, end_ms: float, *, number: int = 0, is_shut: bool = False) -> Step:
    return Step(
        start_ns=int(start_ms * MS), end_ns=int(end_ms * MS), number=number, is_shut=is_shut
    )


def run(start_ms: float, end_ms: float, *, device_ms: float, is_training: bool = True) -> Run:
    return Run(
        start_ns=int(start_ms * MS),
        end_ns=int(end_ms * MS),
        device_ns=int(device_ms * MS),
        samples=32,
        is_training=is_training,
    )


def lane(
    *,
    waits: Sequence[Wait] = (),
    steps: Sequence[Step] = (),
    runs: Sequence[Run] = (),
    stage: int = 0,
    slowdown: Slowdown | None = SLOWDOWN,
) -> LaneRecording:
    return LaneRecording(
        place=LanePlace(node=f"n{stage + 1}", device=0, path="/nowhere"),
        stage=StageFacts(
            job_id=7,
            stage=stage,
            num_stages=2,
            num_steps=len(steps),
            state=PrimaryState.SHARING,
            trips=0,
            slowdown=slowdown,
        ),
        trial=TrialFacts(
            num_slots=16, num_samples=1000, num_overruns=0, overrun_max_ns=0, trials_done=8
        ),
        waits=waits,
        steps=steps,
        runs=runs,
    )


def shared_steps(stage: int) -> LaneRecording:
    """Six steps of 100 ms, every third shut; in each a bubble of 20 ms with a run of 15 ms."""
    numbers = range(6)
    return lane(
        stage=stage,
        steps=[step(100 * n, 100 * n + 100, number=n, is_shut=n % 3 == 1) for n in numbers],
        waits=[
            wait(100 * n + 40, 100 * n + 60, opened_ms=0 if n % 3 == 1 else 100 * n + 40)
            for n in numbers
        ],
        runs=[
            run(100 * n + 41, 100 * n + 56, device_ms=15, is_training=n != 4)
            for n in numbers
            if n % 3 != 2
        ]
        + [run(641, 642, device_ms=1)],
    )
