"""A bound on the slowdown through the real sbatch, salloc and srun: where it arrives."""

from __future__ import annotations

import pytest

from hydro_hpc.devcluster import Cluster
from tests.slurm_plugin.cluster.slurm_jobs import Jobs

pytestmark = pytest.mark.slurm

SHOW = "env | grep ^SLURM_HYDRO_GUARD_BOUND="
BOUND = "SLURM_HYDRO_GUARD_BOUND=0.5%\n"


def test_a_batch_jobs_bound_reaches_its_steps_whatever_is_exported(jobs: Jobs) -> None:
    jobs.script("alice", "study.py", "")
    for number, option in enumerate(("bound=0.5%", "bound=0.5%,study.py")):
        job = jobs.submit(
            f"--hydro-bubble={option}",
            "--gres=gpu:1",
            "--export=PATH,SLURM_CONF",
            f"--output={number}.txt",
            f"--wrap={SHOW}; srun --export=PATH sh -c '{SHOW}'",
        )
        mark = jobs.fields(job)["AdminComment"]
        jobs.wait_state(job, "COMPLETED", "FAILED")
        assert BOUND * 2 in jobs.text("alice", f"{number}.txt")
        assert mark.endswith("/alice/study.py" if number else "hydro:lend")


def test_a_bound_is_not_that_of_a_job_submitted_from_inside(jobs: Jobs) -> None:
    inner = jobs.script("alice", "inner.sh", f"#!/bin/sh\n{SHOW} || echo none\n")
    wrap = f"--wrap={SHOW}; sbatch --wait --output=inner.txt {inner}"
    outer = jobs.submit("--hydro-bubble=bound=0.5%", "--gres=gpu:1", "--output=outer.txt", wrap)
    jobs.wait_state(outer, "COMPLETED", "FAILED")
    assert jobs.text("alice", "outer.txt").startswith(BOUND)
    assert jobs.text("alice", "inner.txt") == "none\n"


@pytest.mark.parametrize("program", ["srun", "salloc"])
def test_a_bound_for_srun_and_salloc(cluster: Cluster, program: str) -> None:
    inner = ["srun"] if program == "salloc" else []
    command = [program, "--hydro-bubble=bound=0.5%", "--gres=gpu:1", *inner, "sh", "-c", SHOW]
    done = cluster.run(command, timeout_s=60)
    assert (done.returncode, done.stdout) == (0, BOUND), done.stderr
