"""What a gang that gives its job back writes for the coordinator."""

from __future__ import annotations

import subprocess

import pytest

from hydro_hpc.errors import EXIT_NOT_FOUND, EXIT_NOT_RUNNABLE, EXIT_USAGE
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


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["--exec"], EXIT_USAGE, "--exec was given no command"),
        (["--exec", "--"], EXIT_USAGE, "--exec was given no command"),
        (["--exec", "study.py", "--", "ls"], EXIT_USAGE, "study.py was given too"),
        (["--exec", "ls"], EXIT_USAGE, "put the command after --"),
        (["--exec", "--slots", "4", "--", "ls"], EXIT_USAGE, "leave them out with --exec"),
        (["study.py", "--", "ls"], EXIT_USAGE, "needs --exec"),
        ([], EXIT_USAGE, "no study was given"),
        (["--exec", "--", "no-such-command"], EXIT_NOT_FOUND, "no-such-command was not found"),
        (["--exec", "--", "/etc/passwd"], EXIT_NOT_RUNNABLE, "/etc/passwd is no program"),
        (["--exec", "--", "/etc"], EXIT_NOT_RUNNABLE, "/etc is no program"),
    ],
)
def test_wrong_use_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    exit_code: int,
    sentence: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["hydro-trial", *arguments])
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    assert command.main() == exit_code
    said = capsys.readouterr().err
    assert said.startswith("hydro-trial: ")
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_words_of_the_command_are_not_read_as_ours() -> None:
    ours, words = command.split_command(["--exec", "--", "env", "--", "-h"])
    assert (ours, words) == (["--exec"], ["env", "--", "-h"])
