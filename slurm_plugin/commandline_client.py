"""Slurm through its commands: reads `squeue --json` and `sinfo --json`, changes by `scontrol`.

JSON, because all else that these commands print can be forged: a job's name or comment may hold
line ends and `AdminComment=hydro:lend`. Runs as root or SlurmUser. Reads what Slurm 22.05 writes
(openapi/v0.0.38).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

from hydro_hpc.errors import SlurmError
from slurm_plugin.slurm import Facts, Placement
from slurm_plugin.slurm_json import FormatError, PartitionState, read_facts

TIMEOUT_S: Final = 15.0
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_command(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs one of Slurm's commands, for at most `TIMEOUT_S`. Raises OSError, TimeoutExpired."""
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
    )


class CommandLineSlurm:
    """The port through Slurm's commands. `run` runs them: on this host, unless a test differs."""

    def __init__(self, *, partition: str = "bubble", run: Run = run_command) -> None:
        self._partition = partition
        self._run = run

    def observe(self) -> Facts:
        # Jobs last: one that started since the nodes were read only makes them look roomier.
        partitions = self._partitions()
        nodes = self._json(["sinfo", "--json"], "nodes")
        jobs = self._json(["squeue", "--json"], "jobs")
        try:
            return read_facts(jobs, nodes, partitions, partition=self._partition)
        except FormatError as error:
            raise SlurmError(
                f"Slurm's JSON cannot be read: {error}; is this Slurm 22.05?"
            ) from None

    def pin(self, job_id: int, placement: Placement, *, mark: str, delay_s: int) -> None:
        self._update(
            job_id,
            f"NumNodes={len(placement.nodes)}",
            f"NumTasks={placement.num_tasks}",
            f"MinCPUsNode={placement.cpus_per_node}",
            f"ReqNodeList={','.join(placement.nodes)}",
            f"Gres={placement.gres}",
            f"StartTime=now+{delay_s}",
            f"AdminComment={mark}",
        )

    def release(self, job_id: int) -> None:
        self._scontrol("release", str(job_id))

    def hold(self, job_id: int) -> None:
        self._scontrol("hold", str(job_id))

    def requeue_held(self, job_id: int) -> None:
        self._scontrol("requeuehold", str(job_id))

    def suspend(self, job_id: int) -> None:
        """Stops a running job's processes; beside the port, for an admin's switch."""
        self._scontrol("suspend", str(job_id))

    def resume(self, job_id: int) -> None:
        self._scontrol("resume", str(job_id))

    def mark(self, job_id: int, mark: str) -> None:
        self._update(job_id, f"AdminComment={mark}")

    def _update(self, job_id: int, *changes: str) -> None:
        self._scontrol("update", f"JobId={job_id}", *changes)

    def _scontrol(self, *words: str) -> None:
        self._output(["scontrol", *words])

    def _partitions(self) -> dict[str, PartitionState]:
        """Returns the state of each partition, by name: text that only admins write."""
        lines = self._output(["sinfo", "--noheader", "--format=%R|%a|%h"]).splitlines()
        fields = [line.split("|") for line in lines]
        return {
            name: PartitionState(state=state, is_shared=sharing.startswith("FORCE"))
            for name, state, sharing in (parts for parts in fields if len(parts) == 3)
        }

    def _json(self, argv: list[str], key: str) -> list[Any]:
        text = self._output(argv)
        try:
            found = json.loads(text)[key]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, list):
            raise SlurmError(
                f"{' '.join(argv)} gave no JSON with a list {key!r}; Slurm needs its JSON plugins "
                "(serializer/json, openapi)"
            )
        return found

    def _output(self, argv: list[str]) -> str:
        """Runs a command and returns what it printed. Raises SlurmError if it failed."""
        words = " ".join(argv[:3])
        try:
            done = self._run(argv)
        except FileNotFoundError:
            raise SlurmError(f"{argv[0]} is not installed here; install Slurm's client") from None
        except subprocess.TimeoutExpired:
            raise SlurmError(f"{words}: no answer from slurmctld in {TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise SlurmError(f"{words} could not be run: {error}") from None
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["it did not say why"]
            raise SlurmError(f"{words} failed: {lines[-1].strip()}")
        return done.stdout
