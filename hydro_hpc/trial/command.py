"""`hydro-trial STUDY`, `hydro-trial --exec -- CMD`: what `srun` starts, one process per device."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hydro_hpc.config import load_settings
from hydro_hpc.errors import (
    EXIT_DONE,
    EXIT_NOT_FOUND,
    EXIT_NOT_RUNNABLE,
    EXIT_TRY_LATER,
    CommandError,
    HydroError,
    StudyError,
)
from hydro_hpc.slurm_command import run_slurm
from hydro_hpc.trial.gang import join_gang
from hydro_hpc.trial.job import CommandJob, Job, StudyJob
from hydro_hpc.trial.lane import TenantLane, is_own_allocation
from hydro_hpc.trial.supervisor import Supervisor

REASON_LENGTH: Final = 64  # what the coordinator reads of it


def main() -> int:
    """Runs one rank of the gang; only rank 0 speaks."""
    ours, words = split_command(sys.argv[1:])
    arguments = make_parser().parse_args(ours)
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    try:
        job = _job(arguments, words)
        settings = load_settings(os.environ)
        lane = TenantLane.granted(os.environ)
        gang = join_gang()
        if rank == 0 and isinstance(job, StudyJob):  # a command's output is the command's
            library = f", {gang.library}" if gang.size > 1 else ""
            print(f"hydro-trial: gang of {gang.size}{library}", flush=True)
        supervisor = Supervisor(gang=gang, lane=lane, job=job, settings=settings)
        exit_code, reason = supervisor.run()
    except HydroError as error:
        if rank == 0:
            _say(error.exit_code, str(error))
        return error.exit_code
    if rank == 0:
        _say(exit_code, reason)
        if exit_code == EXIT_TRY_LATER and reason and not is_own_allocation(lane):
            is_study = isinstance(job, StudyJob)
            has_trained = lane.has_trained() if is_study else lane.has_used_device()
            requeue_held(reason, has_trained=has_trained)
    gang.close()
    return exit_code


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydro-trial",
        usage="hydro-trial [-h] [--slots F] [--dir DIR] STUDY.py\n"
        "       hydro-trial --exec -- CMD [ARG ...]",
        description="Runs a study, or any command, inside the bubbles of the devices that this job "
        "step holds.",
        epilog="Exit codes: 0 done, 1 failed, 2 the study is wrong, 75 no bubble to run in now; "
        "with --exec the command's own (128 + n: by signal n; 127: not found, 126: no program).",
    )
    parser.add_argument(
        "study", type=Path, nargs="?", metavar="STUDY.py", help="the file that defines a Study"
    )
    parser.add_argument(
        "--exec",
        action="store_true",
        help="run the command after -- instead; it and all that it starts are stopped outside "
        "bubbles; a job that is requeued begins it anew",
    )
    parser.add_argument(
        "--slots", type=int, metavar="F", help="trials per bundle (default: what the study says)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="where the study's folder is, on all nodes alike (default: the working directory)",
    )
    return parser


def split_command(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Returns what is ours, and the words after the first `--` (None without one)."""
    if "--" not in argv:
        return list(argv), None
    at = argv.index("--")
    return list(argv[:at]), list(argv[at + 1 :])


def _job(arguments: argparse.Namespace, words: list[str] | None) -> Job:
    if arguments.exec:
        return _command_job(arguments, words)
    if words is not None:
        raise CommandError("a command after -- needs --exec: hydro-trial --exec -- CMD")
    return _study_job(arguments)


def _command_job(arguments: argparse.Namespace, words: list[str] | None) -> CommandJob:
    if arguments.study is not None:
        raise CommandError(
            f"--exec runs a command and no study, but {arguments.study} was given too; "
            "put the command after --: hydro-trial --exec -- CMD"
        )
    if arguments.slots is not None or arguments.dir is not None:
        raise CommandError("--slots and --dir are for a study; leave them out with --exec")
    if not words:
        raise CommandError("--exec was given no command; write hydro-trial --exec -- CMD")
    if shutil.which(words[0]) is None:
        if os.sep in words[0] and os.path.exists(words[0]):
            raise CommandError(
                f"{words[0]} is no program that you may execute; see its permissions",
                EXIT_NOT_RUNNABLE,
            )
        raise CommandError(
            f"command {words[0]} was not found; give its path",
            EXIT_NOT_FOUND,
        )
    return CommandJob(words=tuple(words))


def _study_job(arguments: argparse.Namespace) -> StudyJob:
    if arguments.study is None:
        raise StudyError("no study was given; give the path of a Python file, or --exec -- CMD")
    if not arguments.study.is_file():
        raise StudyError(
            f"study file {arguments.study} does not exist; give the path of a Python file"
        )
    if arguments.slots is not None and arguments.slots < 1:
        raise StudyError(f"--slots is {arguments.slots}; give 1 or more")
    return StudyJob(
        file=arguments.study.absolute(),
        directory=(arguments.dir or Path()).absolute(),
        slots=arguments.slots,
    )


def _say(exit_code: int, reason: str) -> None:
    if exit_code != EXIT_DONE and reason:
        print(f"hydro-trial: {reason}", file=sys.stderr, flush=True)


def requeue_held(reason: str, *, has_trained: bool) -> None:
    """Gives this job back to the coordinator: requeued, held, with the reason in its comment.

    The comment counts failures without training in between: the coordinator's delay grows with it.
    A user may do this to a job of his own. If Slurm refuses, the job just ends with 75.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    before = run_slurm(["squeue", "--noheader", f"--jobs={job}", "--format=%k"]).stdout
    found = re.fullmatch(r"hydro:failed=[^;]*;count=(\d+)", before.strip())
    count = 1 if has_trained or found is None else int(found[1]) + 1
    comment = f"hydro:failed={reason_word(reason)};count={count}"
    for command in (
        ["scontrol", "update", f"jobid={job}", f"comment={comment}"],
        ["scontrol", "requeuehold", job],
    ):
        result = run_slurm(command)
        if result.returncode:
            problem = result.stderr.strip()
            print(f"hydro-trial: {' '.join(command[:2])}: {problem}", file=sys.stderr, flush=True)
            return


def reason_word(reason: str) -> str:
    """Returns a reason as the one word that a comment's field may hold."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", reason)[:REASON_LENGTH].strip("-")


if __name__ == "__main__":
    sys.exit(main())
