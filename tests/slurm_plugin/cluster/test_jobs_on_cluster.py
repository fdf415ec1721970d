"""What becomes of our jobs in the real slurmctld: marks, holds, and who may change them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.slurm_plugin.cluster.slurm_jobs import Jobs

pytestmark = pytest.mark.slurm


def test_a_lender_is_marked(jobs: Jobs) -> None:
    jobs.script("alice", "study.py", "")
    plain = jobs.submit("--hydro-bubble", "--gres=gpu:1", "--hold", "--wrap=true")
    assert jobs.fields(plain)["AdminComment"] == "hydro:lend"
    with_study = jobs.submit("--hydro-bubble=./study.py", "--gpus=1", "--hold", "--wrap=true")
    path = jobs.cluster.home("alice") / "study.py"
    assert jobs.fields(with_study)["AdminComment"] == f"hydro:lend;study={path}"


def test_a_gang_is_held_in_the_tenant_partition_with_its_wish(jobs: Jobs) -> None:
    # More than there is, so that the coordinator leaves it alone.
    gang = jobs.submit("--bubbles=40-80", "--partition=main", "--wrap=true", user="bob")
    fields = jobs.fields(gang)
    assert (fields["Partition"], fields["Priority"], fields["Requeue"]) == ("bubble", "0", "1")
    assert fields["AdminComment"].startswith("hydro:want=40-80")
    assert fields["JobState"] == "PENDING"


def test_the_last_of_equal_options_counts(jobs: Jobs) -> None:
    gang = jobs.submit("--bubbles=2", "--bubbles=70-80", "--wrap=true", user="bob")
    assert jobs.fields(gang)["AdminComment"].startswith("hydro:want=70-80")


@pytest.mark.parametrize(
    "change",
    [
        "release {job}",
        "hold {job}",
        "update JobId={job} Priority=100",
        "update JobId={job} Gres=bubble:1",
        "update JobId={job} NumNodes=2",
        "update JobId={job} ReqNodeList=n2",
        "update JobId={job} Partition=main",
        "update JobId={job} AdminComment=hydro:want=1-1",
        "update JobId={job} Features=fast",
    ],
)
def test_its_owner_cannot_move_a_gang(jobs: Jobs, change: str) -> None:
    gang = jobs.submit("--bubbles=60", "--wrap=true", user="bob")
    before = jobs.fields(gang)
    command = ["scontrol", *change.format(job=gang).split()]
    done = jobs.cluster.run(command, user="bob", timeout_s=30)
    assert "Access/permission denied" in done.stderr
    after = jobs.fields(gang)
    for name in ("Priority", "Partition", "ReqNodeList", "NumNodes", "TresPerNode", "Features"):
        assert after.get(name) == before.get(name)


def test_its_owner_can_change_the_rest_and_cancel(jobs: Jobs) -> None:
    gang = jobs.submit("--bubbles=60", "--wrap=true", user="bob")
    command = ["scontrol", "update", f"JobId={gang}", "Comment=hydro:failed=memory;count=1"]
    assert jobs.cluster.run(command, user="bob").returncode == 0
    assert jobs.fields(gang)["Comment"] == "hydro:failed=memory;count=1"
    assert jobs.cluster.run(["scancel", str(gang)], user="bob").returncode == 0
    jobs.wait_state(gang, "CANCELLED", "")


def test_nobody_else_gets_into_the_tenant_partition(jobs: Jobs) -> None:
    job = jobs.submit("--hold", "--wrap=true")
    command = ["scontrol", "update", f"JobId={job}", "Partition=bubble"]
    done = jobs.cluster.run(command, timeout_s=30)
    assert "Access/permission denied" in done.stderr
    assert jobs.fields(job)["Partition"] == "main"
    command = ["scontrol", "update", f"JobId={job}", "Gres=bubble:1"]
    assert "Access/permission denied" in jobs.cluster.run(command, timeout_s=30).stderr


def test_a_bug_in_our_lua_costs_only_our_jobs(jobs: Jobs) -> None:
    module = Path(jobs.cluster.spec.directory) / "etc/hydro/hydro.lua"
    sample = module.parent.parent / "job_submit.lua"
    good = module.read_text()
    try:
        broken = good.replace("local function submit(job, options)", "local function submit()", 1)
        assert broken != good
        module.write_text(broken)
        _reload(sample)
        done = jobs.try_submit("--hydro-bubble", "--gres=gpu:1", "--wrap=true")
        assert "hydro: the job-submit plugin failed, so this job cannot be taken" in done.stderr
        jobs.submit("--gres=gpu:1", "--hold", "--wrap=true")
    finally:
        module.write_text(good)
        _reload(sample)
    jobs.submit("--hydro-bubble", "--gres=gpu:1", "--hold", "--wrap=true")


def _reload(script: Path) -> None:
    """slurmctld reads the script again when its time, in whole seconds, has changed."""
    later = int(max(script.stat().st_mtime, time.time())) + 2
    os.utime(script, (later, later))


@pytest.mark.parametrize("option", ["--hydro-bubble", "--hydro-bubble=study.py"])
def test_a_jobs_options_are_not_those_of_the_jobs_and_steps_in_it(jobs: Jobs, option: str) -> None:
    jobs.script("alice", "study.py", "")
    script = jobs.script(
        "alice",
        "outer.sh",
        "#!/bin/sh\nsrun true && sbatch --hold --wrap=true && salloc --gres=gpu:1 -w n2 true\n",
    )
    outer = jobs.submit(option, "--gres=gpu:1", "--nodelist=n1", "--output=outer.txt", script)
    jobs.wait_state(outer, "COMPLETED")
    text = jobs.text("alice", "outer.txt")
    assert "hydro:" not in text
    inner = int(text.split("Submitted batch job ")[1].split()[0])
    assert "AdminComment" not in jobs.fields(inner)
