"""The eviction barrier: no job starts on a device while a trial without lender runs there."""

from __future__ import annotations

import pytest

from hydro_hpc.devcluster.cgroups import detect_cgroups
from tests.slurm_plugin.cluster.slurm_jobs import STEP_PROCESSES, Jobs
from tests.slurm_plugin.cluster.test_lanes_on_cluster import gang_script, lend

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(detect_cgroups().version == 0, reason="this kernel has no cgroups for us"),
]

STOPPED = "#!/bin/sh\nsleep 301 &\necho up\nkill -STOP $$\n"
IGNORING = "#!/bin/sh\ntrap '' TERM HUP INT\necho up\nwhile :; do sleep 301; done\n"
FORKING = """#!/usr/bin/python3
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    if os.fork() == 0:
        os.setsid()
        os.execv("/bin/sleep", ["sleep", "301"])
    time.sleep(0.01)
"""
POLITE = "#!/bin/sh\ntrap 'echo left; exit 75' TERM\necho up\nwhile :; do sleep 0.1; done\n"


def start_tenant(jobs: Jobs, trial: str) -> int:
    script = gang_script(jobs, trial=trial)
    gang = jobs.submit("--bubbles=60", "--output=gang.txt", script, user="bob")
    jobs.place(gang, "n1", "bubble:g0:1")
    jobs.wait_text("bob", "gang.txt", "up")
    return gang


def end_lender(jobs: Jobs, lender: int) -> None:
    jobs.on_node("login", f"scancel {lender}")
    jobs.wait(lambda: not jobs.on_node("n1", f"ls /run/hydro/jobs/{lender}"), what="the epilog")


@pytest.mark.parametrize(
    "trial", [STOPPED, IGNORING, FORKING], ids=["stopped", "ignoring", "forking"]
)
def test_the_next_gpu_job_finds_no_trial_left(jobs: Jobs, trial: str) -> None:
    lender = lend(jobs)
    start_tenant(jobs, trial)
    assert "tenant" in jobs.lane("n1")
    end_lender(jobs, lender)
    assert jobs.step_processes("n1", "bob") != [], "the trial outlives its lender: nothing ends it"
    # A job that has nothing to do with us, and looks around as soon as it starts:
    look = jobs.script("alice", "look.sh", "#!/bin/sh\n" + STEP_PROCESSES.replace("USER", "bob"))
    after = jobs.submit("--gres=gpu:1", "--nodelist=n1", "--output=next.txt", look)
    jobs.wait_state(after, "COMPLETED")
    assert jobs.text("alice", "next.txt") == ""
    assert jobs.lane("n1") == {"site", "stage"}
    assert "drain" not in jobs.on_node("login", "sinfo -N -o %T")


def test_a_suspended_gang_is_ended_too(jobs: Jobs) -> None:
    """Slurm may have frozen its processes: a frozen one dies only when it is thawed."""
    lender = lend(jobs)
    gang = start_tenant(jobs, POLITE)
    jobs.on_node("login", f"scontrol suspend {gang}")
    jobs.wait_state(gang, "SUSPENDED")
    end_lender(jobs, lender)
    after = jobs.submit("--gres=gpu:1", "--nodelist=n1", "--wrap=true")
    jobs.wait_state(after, "COMPLETED")
    assert jobs.step_processes("n1", "bob") == []
    assert jobs.lane("n1") == {"site", "stage"}


def test_a_trial_that_leaves_when_asked_is_not_killed(jobs: Jobs) -> None:
    lender = lend(jobs)
    start_tenant(jobs, POLITE)
    end_lender(jobs, lender)
    after = jobs.submit("--gres=gpu:1", "--nodelist=n1", "--wrap=true")
    jobs.wait_state(after, "COMPLETED")
    jobs.wait_text("bob", "gang.txt", "left")


def test_a_trial_whose_lender_runs_is_left_alone(jobs: Jobs) -> None:
    lend(jobs)
    start_tenant(jobs, POLITE)
    after = jobs.submit("--nodelist=n1", "--wrap=true")
    jobs.wait_state(after, "COMPLETED")
    assert jobs.step_processes("n1", "bob") != []
    assert "tenant" in jobs.lane("n1")


def test_the_next_lender_starts_with_fresh_pages(jobs: Jobs) -> None:
    lender = lend(jobs)
    start_tenant(jobs, IGNORING)
    end_lender(jobs, lender)
    lend(jobs)
    assert jobs.lane("n1") == {"site", "stage"}
    assert jobs.step_processes("n1", "bob") == []
