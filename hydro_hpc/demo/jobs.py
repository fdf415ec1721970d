"""The demo's two jobs: their files in their owners' homes, submission, state, output."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import hydro_hpc
from hydro_hpc.devcluster import Cluster
from hydro_hpc.errors import ConfigError, SlurmError

EXAMPLES: Final = Path(hydro_hpc.__file__).parent.parent / "examples"
COMMAND_S: Final = 60.0
ENDED: Final = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A submitted batch job."""

    id: int
    user: str
    directory: Path  # where it was submitted, with what it writes
    output: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What Slurm says of a job."""

    state: str  # e.g. PENDING, RUNNING, COMPLETED
    reason: str  # why it waits; "None" if it does not

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


def copy_example(cluster: Cluster, user: str, name: str) -> Path:
    """Puts one of the examples into a user's home, as his own; returns where it is there.

    Raises ConfigError where the examples are not beside the package (an installed wheel).
    """
    source = EXAMPLES / name
    if not source.is_dir():
        raise ConfigError(
            f"the demo's example {source} is missing; run the demo from a checkout: make demo"
        )
    home = cluster.home(user)
    target = home / name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.hydro"))
    owner = home.stat()
    for path in (target, *target.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return target


def submit(
    cluster: Cluster,
    *,
    user: str,
    directory: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Runs `sbatch arguments` as a user. Raises SlurmError with what sbatch says."""
    done = cluster.run(
        ["sbatch", *arguments],
        user=user,
        cwd=directory,
        environment=environment,
        timeout_s=COMMAND_S,
    )
    found = re.search(r"Submitted batch job (\d+)", done.stdout)
    if not found:
        raise SlurmError(f"{user}'s sbatch {' '.join(arguments)} failed: {done.stderr.strip()}")
    number = int(found[1])
    shown = _scontrol(cluster, ["show", "job", "--oneliner", str(number)])
    output = re.search(r" StdOut=(\S+)", shown)
    if not output:
        raise SlurmError(f"scontrol show job {number} does not name its output file: {shown}")
    return Job(id=number, user=user, directory=directory, output=Path(output[1]))


def state_of(cluster: Cluster, job: Job) -> JobState:
    """Raises SlurmError if slurmctld does not answer or does not know the job any more."""
    shown = _scontrol(cluster, ["show", "job", "--oneliner", str(job.id)])
    return parse_state(shown)


def parse_state(shown: str) -> JobState:
    """Reads one line of `scontrol show job --oneliner`."""
    state = re.search(r" JobState=(\S+)", shown)
    reason = re.search(r" Reason=(\S+)", shown)
    if not state:
        raise SlurmError(f"scontrol show job: no JobState in {shown.strip()!r}")
    return JobState(state=state[1], reason=reason[1] if reason else "None")


def cancel(cluster: Cluster, job: Job) -> None:
    cluster.run(["scancel", str(job.id)], user=job.user, timeout_s=COMMAND_S)


def last_lines(path: Path, count: int) -> list[str]:
    """Returns the end of a job's output, nothing if it wrote none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def _scontrol(cluster: Cluster, arguments: Sequence[str]) -> str:
    done = cluster.on_node("login", ["scontrol", *arguments], timeout_s=COMMAND_S)
    if done.returncode != 0:
        raise SlurmError(f"scontrol {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout
