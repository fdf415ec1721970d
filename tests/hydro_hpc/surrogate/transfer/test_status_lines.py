"""What is said while a target is verified, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.study import Study, log_uniform
from hydro_hpc.surrogate.transfer.eager import WaitsFor
from hydro_hpc.surrogate.transfer.records import Record
from hydro_hpc.surrogate.transfer.standing import Candidate, Standing
from hydro_hpc.surrogate.transfer.status_lines import StatusLines
from hydro_hpc.surrogate.transfer.verifying import Progress

BEST, SECOND = (
    Candidate(number=number, value=value, params={"lr": 0.1}, seed=1)
    for number, value in ((3, 0.25), (5, 0.5))
)
STANDING = Standing(
    planned=9,
    ended=3,
    in_work=4,
    failed=0,
    why_failed="",
    candidates=(BEST, SECOND),
    is_running=True,
)
RECORD = Record(number=3, epochs=2, batch_size=32, values=(0.75,))


@pytest.fixture
def line() -> Callable[..., str]:
    study = Study(
        name="tiny",
        model=lambda: nn.Linear(4, 2),
        data=lambda: (torch.zeros(64, 4),) * 4,
        loss=nn.MSELoss(),
        metrics="loss",
        space={"lr": log_uniform(1e-3, 1e-1)},
        epochs=2,
    )
    lines = StatusLines(study, count=2)

    def say(now_s: float = 0.0, *, standing: Standing = STANDING, **what: Any) -> str:
        records = what.pop("records", {})
        return lines.line(Progress(standing=standing, records=records, **what), now_s=now_s)

    return say


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (WaitsFor.HALF, "waits for half of its trials: 3 of 5 trials have ended, 4 in work"),
        (WaitsFor.CANDIDATE, "waits for a first trial that completes: 3 of 9 trials have ended, 4"),
        (
            WaitsFor.REST,
            "its 2 best are verified; waits for the rest of its trials: 3 of 9 trials have ended",
        ),
    ],
)
def test_says_what_is_waited_for(line: Callable[..., str], what: WaitsFor, said: str) -> None:
    assert line(waits_for=what).startswith(f"study tiny: {said}")


def test_a_wait_is_spoken_of_when_it_has_changed_and_not_often(line: Callable[..., str]) -> None:
    def wait(now_s: float, ended: int) -> bool:
        return bool(line(now_s, standing=replace(STANDING, ended=ended), waits_for=WaitsFor.HALF))

    assert wait(0.0, 1)
    assert not wait(5.0, 2)  # too soon
    assert wait(10.0, 2)
    assert not wait(500.0, 2)  # nothing new
    assert wait(505.0, 3)
    assert line(506.0, begins=BEST)
    assert wait(507.0, 3)  # another wait


def test_says_where_a_target_trains_and_how_long_its_epochs_take(line: Callable[..., str]) -> None:
    assert line(5.0, begins=BEST) == (
        "target, trial 3: trains to epoch 2, here, on the CPU with 1 thread, which should be this "
        "process's own; 0.25 in the study"
    )
    assert line(7.5, record=RECORD) == "target, trial 3, epoch 1 of 2: 0.75 (2.5 s)"
    done = replace(RECORD, values=(0.75, 0.5), state="complete")
    assert line(8.0, record=done) == "target, trial 3, epoch 2 of 2: 0.5 (0.5 s)"
    assert "trains after epoch 1 to epoch 2" in line(9.0, begins=BEST, records={3: RECORD})
    failed = replace(RECORD, state="failed", reason="its loss was not finite")
    assert line(9.0, record=failed) == "target, trial 3: failed: its loss was not finite"


def test_says_at_its_end_what_is_transferred(line: Callable[..., str]) -> None:
    head = "study tiny: 3 of 9 trials have ended; best is trial 3: 0.25 {'lr': 0.1}"
    assert line() == head
    left = line(standing=replace(STANDING, is_running=False))
    assert left == head.replace("have ended;", "have ended, and it is not running;")
    done = Record(number=5, epochs=2, batch_size=32, values=(0.75, 0.125), state="complete")
    assert line(records={5: done}) == f"{head}\nbest on the target is trial 5: 0.125"
    failed = replace(RECORD, state="failed")
    assert line(records={3: failed}) == (
        f"{head}\nits target failed there, so trial 5 is transferred, which is not verified: 0.5"
    )
