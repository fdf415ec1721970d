"""What a gang that gives its job back writes for the coordinator."""

from __future__ import annotations

import subprocess

import pytest

from hydro_hpc.trial import command
from slurm_plugin.marks import parse_failure


class FakeSlurm:
    """squeue and scontrol, as `_run` sees them."""

    def __init__(self, comment: str) -> None:
        self.comment = comment
        self.requeued: list[str] = []

    def run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        if argv[0] == "squeue":
            return subprocess.CompletedProcess(argv, 0, self.comment + "\n", "")
        if argv[1] == "update":
            self.comment = argv[3].removeprefix("comment=")
        else:
            self.requeued.append(argv[2])
        return subprocess.CompletedProcess(argv, 0, "", "")


def give_back(
    monkeypatch: pytest.MonkeyPatch, comment: str, reason: str, *, has_trained: bool
) -> FakeSlurm:
    slurm = FakeSlurm(comment)
    monkeypatch.setattr(command, "run_slurm", slurm.run)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    command.requeue_held(reason, has_trained=has_trained)
    return slurm


@pytest.mark.parametrize(
    ("before", "has_trained", "count"),
    [
        ("", False, 1),
        ("(null)", False, 1),
        ("hydro:failed=x;count=4", False, 5),
        ("hydro:failed=x;count=4", True, 1),
        ("my own note; count=9", False, 1),
    ],
)
def test_failures_in_a_row_are_counted(
    monkeypatch: pytest.MonkeyPatch, before: str, has_trained: bool, count: int
) -> None:
    slurm = give_back(monkeypatch, before, "the lane is gone", has_trained=has_trained)
    failure = parse_failure(slurm.comment)
    assert failure is not None
    assert failure.count == count
    assert slurm.requeued == ["42"]


@pytest.mark.parametrize(
    "reason",
    [
        "the lane is gone: the job that lent it has ended",
        "a;count=99\nJobName=x",
        "x" * 500,
        "Zeit überschritten (10 s)",
    ],
)
def test_any_reason_is_a_word_that_the_coordinator_reads(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    slurm = give_back(monkeypatch, "", reason, has_trained=True)
    failure = parse_failure(slurm.comment)
    assert failure is not None
    assert failure.count == 1
