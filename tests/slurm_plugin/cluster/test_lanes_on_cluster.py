"""Lanes in real steps: what the device cgroup lets a job lend and take, and when it all ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.devcluster.cgroups import detect_cgroups
from hydro_hpc.page import Page
from hydro_hpc.page_layout import PageKind, Word
from tests.slurm_plugin.cluster.slurm_jobs import Jobs

pytestmark = pytest.mark.slurm

needs_device_cgroup = pytest.mark.skipif(
    not detect_cgroups().constrains_devices, reason="this kernel has no device cgroup"
)

TRIAL = """#!/bin/sh
env | grep ^HYDRO_ | sort
taskset -cp $$ | sed 's/.*: /core /'
sleep "${1:-0}"
"""
LENDER = ("--hydro-bubble", "--gres=gpu:1", "--nodelist=n1")


def gang_script(jobs: Jobs, *, trial: str = TRIAL, argument: str = "0") -> str:
    jobs.script("bob", "hydro-trial", trial)
    return jobs.script("bob", "gang.sh", f"#!/bin/sh\nexec srun ./hydro-trial {argument}\n")


def place_gang(jobs: Jobs, *, argument: str, gres: str = "bubble:g0:1", output: str) -> int:
    script = gang_script(jobs, argument=argument)
    gang = jobs.submit("--bubbles=60", f"--output={output}", script, user="bob")
    jobs.place(gang, "n1", gres)
    return gang


def lend(jobs: Jobs, *options: str) -> int:
    """Starts a lender on n1 and returns when its lane is open."""
    (jobs.cluster.home("alice") / "lender.txt").unlink(missing_ok=True)
    lender = jobs.submit(*LENDER, *options, "--output=lender.txt", "--wrap=echo up; sleep 300")
    jobs.wait_text("alice", "lender.txt", "up")
    return lender


def test_another_users_trial_takes_the_lent_lane(jobs: Jobs) -> None:
    lend(jobs)
    gang = place_gang(jobs, argument="300", output="gang.txt")
    jobs.wait_text("bob", "gang.txt", "core")
    text = jobs.text("bob", "gang.txt")
    assert "HYDRO_LANES=0\nHYDRO_PAGE_DIR=/run/hydro\nHYDRO_ROLE=take\n" in text
    core = jobs.on_node("n1", "sed -n 's/^cpu_cores *= *//p' /etc/slurm/hydro/lanes.conf").strip()
    assert f"core {core}\n" in text
    owners = jobs.on_node("n1", "cd /run/hydro/gpu0; stat -c '%n %U %a' * | sort").split("\n")
    assert owners[:-1] == [
        "lease.lock bob 600",
        "site root 644",
        "stage alice 644",
        "tenant root 644",
        "trial bob 644",
    ]
    jobs.on_node("login", f"scancel {gang}")
    jobs.wait(lambda: jobs.lane("n1") == {"site", "stage"}, what="the tenant leaves")


def test_a_trial_without_a_lent_device_is_told_so(jobs: Jobs) -> None:
    place_gang(jobs, argument="0", output="gang.txt")
    jobs.wait_text("bob", "gang.txt", "HYDRO_ROLE")
    text = jobs.text("bob", "gang.txt")
    assert "hydro: gpu0 is not lent now\n" in text
    assert "HYDRO_LANES=\n" in text


def test_the_second_of_two_steps_gets_no_lane(jobs: Jobs) -> None:
    jobs.script("alice", "hydro-trial", TRIAL)
    step = "srun --overlap --output=step%s.txt ./hydro-trial %s"
    first, second = step % (1, 300), step % (2, 0)
    script = f"#!/bin/sh\n{first} &\nuntil grep -q core step1.txt; do sleep 0.1; done\n{second}\n"
    lender = jobs.submit(*LENDER, jobs.script("alice", "both.sh", script))
    jobs.wait_text("alice", "step2.txt", "core")
    assert "HYDRO_LANES=0\n" in jobs.text("alice", "step1.txt")
    assert f"hydro: gpu0 is held by step {lender}.0\n" in jobs.text("alice", "step2.txt")
    assert "HYDRO_LANES=\n" in jobs.text("alice", "step2.txt")


def test_the_epilog_closes_what_the_job_lent(jobs: Jobs) -> None:
    lender = lend(jobs)
    assert jobs.on_node("n1", f"cat /run/hydro/jobs/{lender}") == "lender\n"
    jobs.on_node("login", f"scancel {lender}")
    jobs.wait(lambda: not jobs.on_node("n1", "ls /run/hydro/jobs"), what="the epilog")
    before = site_page(jobs)
    assert before.get("site_word") == Word.GONE
    lend(jobs)
    after = site_page(jobs)
    assert (after.get("site_word"), after.get("generation")) == (
        Word.RUN,
        before.get("generation") + 1,
    )


def site_page(jobs: Jobs) -> Page:
    dump = jobs.on_node("n1", "od -An -v -tx1 /run/hydro/gpu0/site")
    return Page(bytes.fromhex(dump), PageKind.SITE)


FILL = "cd /run/hydro; head -c $(($(stat -f -c '%a*%S' .) - {left})) /dev/zero > filler"


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (65536, "hydro: gpu0/stage: No space left on device; enlarge the tmpfs"),
        (0, "hydro: no bubble is lent on this node: its prolog did not note this job"),
    ],
)
def test_a_full_page_directory_lends_nothing_and_harms_nobody(
    jobs: Jobs, left: int, message: str
) -> None:
    jobs.on_node("n1", "rm -rf /run/hydro/gpu0; " + FILL.format(left=left))
    try:
        lender = jobs.submit(*LENDER, "--output=full.txt", "--wrap=env | grep ^HYDRO_L; echo done")
        jobs.wait_state(lender, "COMPLETED")
        assert message in jobs.text("alice", "full.txt")
        assert "HYDRO_LANES=0" not in jobs.text("alice", "full.txt")
        assert "done\n" in jobs.text("alice", "full.txt")
    finally:
        jobs.on_node("n1", "rm /run/hydro/filler")
    lend(jobs)
    assert jobs.lane("n1") == {"site", "stage"}


def test_a_study_beside_a_batch_job_runs_and_ends_with_it(jobs: Jobs) -> None:
    jobs.script("alice", "hydro-trial", "#!/bin/sh\nenv | grep ^HYDRO_\necho $*\nsleep 300\n")
    jobs.script("alice", "study.py", "")
    environment = f"--export=ALL,PATH={jobs.cluster.home('alice')}:/usr/bin:/bin"
    wrap = "--wrap=until grep -q take hydro-trial-*.log; do sleep 0.1; done; sleep 1"
    lender = jobs.submit("--hydro-bubble=study.py", *LENDER[1:], environment, wrap)
    jobs.wait_state(lender, "COMPLETED")
    text = jobs.text("alice", f"hydro-trial-{lender}.log")
    assert "HYDRO_ROLE=take\n" in text
    assert "HYDRO_LANES=0\n" in text
    assert f"{jobs.cluster.home('alice')}/study.py\n" in text
    jobs.wait(lambda: jobs.lane("n1") == {"site", "stage"}, what="the study leaves")
    assert jobs.step_processes("n1", "alice") == []


def test_a_program_of_roots_that_hangs_costs_the_lane_and_no_job(jobs: Jobs) -> None:
    hold = "(flock 9; exec sleep 1000) 9> /run/hydro/lock > /dev/null 2>&1 & echo $!"
    lender = lend(jobs)
    holder = jobs.on_node("n1", hold).strip()
    try:
        jobs.on_node("login", f"scancel {lender}")
        jobs.wait(lambda: site_page(jobs).get("site_word") == Word.GONE, what="the epilog closes")
        after = jobs.submit(*LENDER, "--output=locked.txt", "--wrap=echo done")
        jobs.wait_state(after, "COMPLETED")
        assert "another of root's programs holds it" in jobs.text("alice", "locked.txt")
        assert "done\n" in jobs.text("alice", "locked.txt")
    finally:
        jobs.on_node("n1", f"kill {holder}")
    assert "drain" not in jobs.on_node("login", "sinfo -N -o %T")
    lend(jobs)


def test_a_trials_slurmstepd_killed_in_the_middle_leaves_no_tenant(jobs: Jobs) -> None:
    lender = lend(jobs)
    gang = place_gang(jobs, argument="300", output="gang.txt")
    jobs.wait_text("bob", "gang.txt", "core")
    jobs.kill_slurmstepd("n1", gang)
    jobs.on_node("login", f"scancel {gang}")
    jobs.wait(lambda: jobs.lane("n1") == {"site", "stage"}, what="the tenant leaves")
    assert jobs.state(lender) == "RUNNING"
    assert site_page(jobs).get("site_word") == Word.RUN


@needs_device_cgroup
def test_only_devices_that_the_job_holds_are_lent_and_taken(cluster_directory: Path) -> None:
    spec = ClusterSpec(nodes=1, devices_per_node=3, directory=cluster_directory)
    cluster = Cluster(spec)
    cluster.up()
    jobs = Jobs(cluster)
    wrap = "--wrap=env | grep ^HYDRO_; echo up; sleep 300"
    for number, gpus in ((1, 1), (2, 2)):
        jobs.submit("--hydro-bubble", f"--gres=gpu:{gpus}", f"--output=l{number}.txt", wrap)
        jobs.wait_text("alice", f"l{number}.txt", "up")
    assert "HYDRO_LANES=0\n" in jobs.text("alice", "l1.txt")
    assert "HYDRO_LANES=1,2\n" in jobs.text("alice", "l2.txt")
    place_gang(jobs, argument="300", gres="bubble:g2:1", output="gang.txt")
    jobs.wait_text("bob", "gang.txt", "core")
    assert "HYDRO_LANES=2\n" in jobs.text("bob", "gang.txt")
    assert jobs.lane("n1", 1) == {"site", "stage"}
