"""`hydro-trial STUDY`: the command that `srun` starts, one process per device."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Final

from hydro_hpc.config import load_settings
from hydro_hpc.errors import EXIT_DONE, EXIT_TRY_LATER, HydroError, StudyError
from hydro_hpc.slurm_command import run_slurm
from hydro_hpc.trial.gang import join_gang
from hydro_hpc.trial.lane import TenantLane, is_own_allocation
from hydro_hpc.trial.supervisor import StudyJob, Supervisor

REASON_LENGTH: Final = 64  # what the coordinator reads of it


def main() -> int:
    """Runs one rank of the gang; only rank 0 speaks."""
    arguments = make_parser().parse_args()
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    try:
        job = _study_job(arguments)
        settings = load_settings(os.environ)
        lane = TenantLane.granted(os.environ)
        gang = join_gang()
        if rank == 0:
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
        if exit_code == EXIT_TRY_LATER and not is_own_allocation(lane):
            requeue_held(reason, has_trained=lane.has_trained())
    gang.close()
    return exit_code


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydro-trial",
        description="Runs a study inside the bubbles of the devices that this job step holds.",
        epilog="Exit codes: 0 done, 1 failed, 2 the study is wrong, 75 no bubble to run in now.",
    )
    parser.add_argument(
        "study", type=Path, metavar="STUDY.py", help="the file that defines a Study"
    )
    parser.add_argument(
        "--slots", type=int, metavar="F", help="trials per bundle (default: what the study says)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the study's folder is, on all nodes alike (default: the working directory)",
    )
    return parser


def _study_job(arguments: argparse.Namespace) -> StudyJob:
    if not arguments.study.is_file():
        raise StudyError(
            f"study file {arguments.study} does not exist; give the path of a Python file"
        )
    if arguments.slots is not None and arguments.slots < 1:
        raise StudyError(f"--slots is {arguments.slots}; give 1 or more")
    return StudyJob(
        file=arguments.study.absolute(), directory=arguments.dir.absolute(), slots=arguments.slots
    )


def _say(exit_code: int, reason: str) -> None:
    if exit_code != EXIT_DONE:
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
