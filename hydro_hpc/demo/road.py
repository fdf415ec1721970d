"""The road of the demo: two jobs of two users, watched to their end, then one report."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hydro_hpc.demo.jobs import (
    Job,
    JobState,
    cancel,
    copy_example,
    last_lines,
    state_of,
    submit,
)
from hydro_hpc.demo.progress import Progress
from hydro_hpc.devcluster import Cluster, ClusterStatus
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.errors import HydroError, SlurmError
from hydro_hpc.report.lane_status import slowdown_text
from hydro_hpc.report.lanes import cluster_lanes
from hydro_hpc.report.recording import LaneRecorder, Slowdown
from hydro_hpc.report.summary import RunReport, StudyOutcome

OWNER, TUNER = "alice", "bob"
# Enough for any study: the demo ends the training when the study has ended.
TRAINING: Final = ("--hydro-bubble", "train.sbatch", "--steps=1000000")
STUDY: Final = ("--bubbles=2", "study.sbatch")
# Half of the steps are shut throughout: many pairs for the slowdown in a short run.
GUARD: Final = {"HYDRO_GUARD_BOUND": "0.05", "HYDRO_GUARD_DENSE_STEPS": "1000000"}
LOOK_S: Final = 1.0
ASK_SLURM_EVERY_S: Final = 3.0
STUDY_S: Final = 900.0
END_S: Final = 60.0
AGAIN_S: Final = 300.0


class DemoError(HydroError):
    """The demo could not go its way; the sentence says where to read more."""


@dataclass(slots=True)
class Road:
    """The two jobs of one demo, once they are submitted."""

    cluster: Cluster
    progress: Progress
    training: Job | None = None
    study: Job | None = None

    def walk(self, *, started_s: float) -> RunReport:
        """Goes the whole road. Raises HydroError where it ends early."""
        status = self._start_cluster()
        training, study = self._submit()
        recorders = self._recorders()
        with _in_idle_class():
            self._watch(training, study, recorders)
        self._end(training, study, recorders)
        outcome = self._again(study)
        return RunReport(
            slurm_version=status.slurm_version,
            nodes=len(status.nodes),
            primary_job=training.id,
            lanes=[recorder.recording() for recorder in recorders],
            study=outcome,
            not_enforced=status.not_enforced,
            wall_s=time.monotonic() - started_s,
        )

    def jobs(self) -> dict[str, Job]:
        """Returns the jobs that were submitted by what they do: `training`, `study`."""
        jobs = {"training": self.training, "study": self.study}
        return {name: job for name, job in jobs.items() if job is not None}

    def _start_cluster(self) -> ClusterStatus:
        self.progress.doing("cluster", "starts")
        status = self.cluster.up()
        devices = len(status.nodes) * self.cluster.spec.devices_per_node
        self.progress.done(
            "cluster",
            f"Slurm {status.slurm_version}, nodes {', '.join(status.nodes)}, {devices} devices",
        )
        return status

    def _submit(self) -> tuple[Job, Job]:
        text = copy_example(self.cluster, OWNER, "gpt_pipeline")
        self.training = submit(
            self.cluster, user=OWNER, directory=text, arguments=TRAINING, environment=GUARD
        )
        digits = copy_example(self.cluster, TUNER, "digits")
        self.study = submit(self.cluster, user=TUNER, directory=digits, arguments=STUDY)
        return self.training, self.study

    def _recorders(self) -> list[LaneRecorder]:
        state = load_state(self.cluster.spec.directory)
        assert state is not None
        return [LaneRecorder(place=place) for place in cluster_lanes(state)]

    def _watch(self, training: Job, study: Job, recorders: Sequence[LaneRecorder]) -> None:
        """Reads the flight recorders until the study has ended. Raises DemoError."""
        give_up_s = time.monotonic() + STUDY_S
        asked_s = 0.0
        study_state = JobState(state="PENDING", reason="None")
        while True:
            for recorder in recorders:
                recorder.read()
            now_s = time.monotonic()
            if now_s - asked_s >= ASK_SLURM_EVERY_S:
                asked_s = now_s
                study_state = state_of(self.cluster, study)
                if study_state.state == "COMPLETED":
                    return
                _check_state(study, study_state)
                _check_state(training, state_of(self.cluster, training))
            if now_s > give_up_s:
                raise DemoError(
                    f"the study did not end within {STUDY_S:.0f} s; is this machine busy?"
                )
            self._show(training, study, study_state, recorders)
            time.sleep(LOOK_S)

    def _show(
        self, training: Job, study: Job, state: JobState, recorders: Sequence[LaneRecorder]
    ) -> None:
        self.progress.doing("training", f"job {training.id} of {OWNER}: {_last_loss(training)}")
        self.progress.doing("study", f"job {study.id} of {TUNER}: {_study_text(state, recorders)}")
        self.progress.doing("bubbles", f"slowdown {slowdown_text(_worst(recorders))}")

    def _end(self, training: Job, study: Job, recorders: Sequence[LaneRecorder]) -> None:
        """Ends the training job, which would go on; its lanes go with it."""
        for recorder in recorders:
            recorder.read()
        self._show_end(training, study, recorders)
        cancel(self.cluster, training)
        give_up_s = time.monotonic() + END_S
        while not state_of(self.cluster, training).has_ended:
            if time.monotonic() > give_up_s:
                raise SlurmError(f"job {training.id} does not end on scancel within {END_S:.0f} s")
            time.sleep(LOOK_S / 5)

    def _show_end(self, training: Job, study: Job, recorders: Sequence[LaneRecorder]) -> None:
        self.progress.done("training", f"job {training.id} of {OWNER}: {_last_loss(training)}")
        self.progress.done("study", f"job {study.id} of {TUNER}: completed")
        self.progress.done("bubbles", f"slowdown {slowdown_text(_worst(recorders))}")

    def _again(self, study: Job) -> StudyOutcome:
        """Trains the best trial once more, alone, as the study's owner."""
        self.progress.doing("again", "trains")
        command = [sys.executable, "-m", "hydro_hpc.demo.best_trial", "study.py", "."]
        done = self.cluster.run(command, user=TUNER, cwd=study.directory, timeout_s=AGAIN_S)
        if done.returncode != 0:
            raise DemoError(f"the best trial could not be trained again: {done.stderr.strip()}")
        results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        ranks, mpi = gang_of(study.output.read_text(errors="replace"))
        best = results["best"]
        outcome = StudyOutcome(
            completed=results["completed"],
            pruned=results["pruned"],
            failed=results["failed"],
            best_value=best["value"],
            best_params=best["params"],
            rerun_value=results["rerun_value"],
            ranks=ranks,
            mpi=mpi,
        )
        same = "the same value" if outcome.is_same else "NOT the same value"
        self.progress.done("again", f"{outcome.rerun_value:.4f}, {same}")
        return outcome


def gang_of(output: str) -> tuple[int, str]:
    """Returns (ranks, MPI library) as hydro-trial said them. Raises DemoError if it did not."""
    found = re.findall(r"^hydro-trial: gang of (\d+), (.+)$", output, flags=re.MULTILINE)
    if not found:
        raise DemoError("the study's output does not name its gang; see its log")
    ranks, mpi = found[-1]
    return int(ranks), mpi


def _check_state(job: Job, state: JobState) -> None:
    if state.has_ended:
        raise DemoError(f"job {job.id} of {job.user} ended too early: {state.state}")


def _worst(recorders: Sequence[LaneRecorder]) -> Slowdown | None:
    found = [r.stage.slowdown for r in recorders if r.stage and r.stage.slowdown]
    return max(found, key=lambda slowdown: slowdown.value, default=None)


def _last_loss(training: Job) -> str:
    for line in reversed(last_lines(training.output, 5)):
        if line.startswith("step "):
            return " ".join(line.split())
    return "starts"


def _study_text(state: JobState, recorders: Sequence[LaneRecorder]) -> str:
    if state.state != "RUNNING":
        return state.state.lower() + ("" if state.reason == "None" else f" ({state.reason})")
    trials = [recorder.trial for recorder in recorders if recorder.trial]
    done = sum(trial.trials_done for trial in trials)
    slots = sum(trial.num_slots for trial in trials)
    return f"{done} trials done, {slots} train in bubbles" if slots else "starts"


@contextlib.contextmanager
def _in_idle_class() -> Iterator[None]:
    """Looking at the jobs must not cost them: this thread runs when their cores are idle."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
