"""The study beside a batch job: what `sbatch --hydro-bubble=STUDY` starts, as the job's user.

One task per lane on all nodes of the job. It is no child of the batch script, so a `wait` there
does not wait for it; Slurm ends it with the batch step. hydro-trial itself waits for the training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence


def srun_command(study: str, environment: Mapping[str, str]) -> list[str]:
    """Returns the command that runs the study, from the batch step's environment; pure.

    Raises KeyError if the plugin or Slurm did not set what is needed.
    """
    lanes = environment["HYDRO_LANES"].split(",")
    return [
        "srun",
        "--overlap",
        "--mpi=pmix",
        f"--nodes={environment['SLURM_JOB_NUM_NODES']}",
        f"--ntasks={int(environment['SLURM_JOB_NUM_NODES']) * len(lanes)}",
        f"--ntasks-per-node={len(lanes)}",
        "--cpu-bind=none",
        "--mem=0",
        "--kill-on-bad-exit=0",
        "--job-name=hydro-trial",
        "hydro-trial",
        os.path.join(environment["SLURM_SUBMIT_DIR"], study),
    ]


def log_path(environment: Mapping[str, str]) -> str:
    """Returns where the study's output goes: beside the batch job's own, where it was submitted."""
    return f"{environment['SLURM_SUBMIT_DIR']}/hydro-trial-{environment['SLURM_JOB_ID']}.log"


def main(arguments: Sequence[str]) -> int:
    """Starts `start-study STUDY` detached; says on standard error, the job's, if it cannot."""
    study = arguments[1]
    if not os.environ.get("HYDRO_LANES"):
        print(f"hydro: no device of this job is lent, so {study} is not started", file=sys.stderr)
        return 1
    path = log_path(os.environ)
    try:
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror})"
        print(
            f"hydro: {reason}, so {study} is not started; submit where you can write",
            file=sys.stderr,
        )
        return 1
    if os.fork() == 0:
        _become(srun_command(study, os.environ), log)
    return 0


def _become(command: list[str], log: int) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"hydro: srun cannot be started ({error.strerror}); put it on the job's PATH")
        sys.stdout.flush()
        os._exit(127)
