"""The command-line client on what real Slurm printed, and on what an attacker or a new Slurm would.

`recorded/*-22.05.8.json` are a real cluster's answers: two nodes of two devices, a lender whose
name and comment try to pass for other records, gangs that are held, running, requeued and pinned,
an array, a dependency, a job that completes. Left out are the oldest ended jobs; paths, host names
and the kernel's name were shortened.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hydro_hpc.errors import SlurmError
from slurm_plugin.commandline_client import CommandLineSlurm
from slurm_plugin.marks import Failure, Wish
from slurm_plugin.slurm import Device, Facts, Gang, JobState, Pin, Placement

RECORDED = Path(__file__).parent / "recorded"
SQUEUE = (RECORDED / "squeue-22.05.8.json").read_text()
SINFO = (RECORDED / "sinfo-22.05.8.json").read_text()


class Answers:
    """Stands in for Slurm's commands: gives recorded answers and keeps what was asked."""

    def __init__(self, squeue: str = SQUEUE, sinfo: str = SINFO, partitions: str = "") -> None:
        self._texts: dict[tuple[str, ...], str] = {
            ("squeue", "--json"): squeue,
            ("sinfo", "--json"): sinfo,
        }
        self._partitions = partitions or "main|up|FORCE:4\nbubble|up|FORCE:4\n"
        self.asked: list[list[str]] = []

    def __call__(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.asked.append(list(argv))
        text = self._texts.get(tuple(argv), self._partitions if argv[0] == "sinfo" else "")
        return subprocess.CompletedProcess(argv, 0, text, "")


def observe(*, partitions: str = "", **changes: Any) -> Facts:
    """The facts in the recorded answers after changing fields of jobs: `job_12={"priority": 1}`."""
    squeue = json.loads(SQUEUE)
    for job in squeue["jobs"]:
        job.update(changes.get(f"job_{job['job_id']}", {}))
    sinfo = json.loads(SINFO)
    for node in sinfo["nodes"]:
        node.update(changes.get(node["name"], {}))
    answers = Answers(json.dumps(squeue), json.dumps(sinfo), partitions)
    return CommandLineSlurm(run=answers).observe()


def gang_of(facts: Facts, job_id: int) -> Gang:
    (found,) = (gang for gang in facts.gangs if gang.job_id == job_id)
    return found


def test_lenders_are_told_by_their_admin_comment_only() -> None:
    (lender,) = observe().lenders
    assert (lender.job_id, lender.state) == (11, JobState.RUNNING)
    assert lender.devices == tuple(Device(f"n{n}", i) for n in (1, 2) for i in (0, 1))


def test_a_job_of_the_tenant_partition_never_lends() -> None:
    facts = observe(job_13={"admin_comment": "hydro:lend", "gres_detail": ["gpu:1(IDX:0)"] * 2})
    assert [lender.job_id for lender in facts.lenders] == [11]


def test_names_and_comments_are_no_marks() -> None:
    """Jobs 11 and 12 carry forged records in names and comments; 99 and 999 do not exist."""
    facts = observe()
    assert [gang.job_id for gang in facts.gangs] == [12, 13, 14, 15, 17]
    assert gang_of(facts, 12).wish == Wish(low=2, high=4)


def test_a_held_gang() -> None:
    held = gang_of(observe(), 12)
    assert (held.state, held.pin, held.devices) == (JobState.HELD, None, ())
    assert held.waiting == "no running job lends its bubbles"
    assert (held.memory_per_cpu_mib, held.cpus_per_task, held.failure) == (100, 1, None)


def test_a_running_gang() -> None:
    running = gang_of(observe(), 13)
    assert running.state is JobState.RUNNING
    assert running.devices == (Device("n1", 1), Device("n2", 1))
    assert running.pin == Pin(indexes=(1,), count=1, nodes=("n1", "n2"))


def test_a_gang_that_requeued_itself() -> None:
    back = gang_of(observe(), 14)
    assert (back.state, back.num_requeues, back.num_nodes) == (JobState.HELD, 1, 1)
    assert back.failure == Failure(reason="lane-missing", count=3)
    assert back.begin_s - back.submitted_s == 121  # what Slurm does by itself
    assert back.pin == Pin(indexes=(0,), count=1, nodes=("n2",))


def test_a_released_gang_that_has_no_room() -> None:
    waiting = gang_of(observe(), 15)
    assert waiting.state is JobState.RELEASED
    assert waiting.memory_mib(1) == 3500
    assert waiting.begin_s < 1_800_000_000, "its begin time, not when Slurm expects to start it"


def test_a_gang_with_a_dependency_and_excluded_nodes() -> None:
    depends = gang_of(observe(), 17)
    assert depends.dependency == "afterok:11(unfulfilled)"
    assert depends.excluded_nodes == ("n2",)


def test_a_completing_job_still_has_its_devices() -> None:
    assert observe().others == (Device("n2", 0),)  # job 19, submitted by root without a wish
    as_gang = observe(job_19={"admin_comment": "hydro:want=1-1"})
    assert gang_of(as_gang, 19).state is JobState.CHANGING
    assert gang_of(as_gang, 19).devices == (Device("n2", 0),)
    assert as_gang.others == ()


def test_an_array_is_told_to_be_unplaceable() -> None:
    array = gang_of(observe(job_16={"admin_comment": "hydro:want=1-1"}), 16)
    assert array.unplaceable.startswith("a job array cannot be placed in bubbles")


def test_nodes_have_devices_and_room() -> None:
    n1, n2 = observe().nodes
    assert (n1.name, n1.devices, n1.unusable) == ("n1", (0, 1), "")
    assert (n1.cpus_free, n1.memory_free_mib) == (8, 2900)
    assert n2.name == "n2"


def test_nodes_of_partitions_that_share_otherwise_are_unusable() -> None:
    """Measured: a job of a FORCE partition never starts beside one of another kind of partition."""
    unshared = "main|up|NO\nbubble|up|FORCE:4\n"
    reason = (
        "used by job 11 of partition main, which does not share nodes with partition bubble "
        "(all or none of them need OverSubscribe=FORCE)"
    )
    assert [node.unusable for node in observe(partitions=unshared).nodes] == [reason, reason]


def test_cpus_in_use_are_free_only_where_partitions_share_them() -> None:
    neither = "main|up|NO\nbubble|up|NO\n"
    assert [(n.cpus_free, n.unusable) for n in observe(partitions=neither).nodes] == [(6, "")] * 2


@pytest.mark.parametrize(
    ("shared", "is_exclusive"),
    [("none", True), ("user", True), ("mcs", True), ("shared", False), (None, False)],
)
def test_an_exclusive_lender_is_told(shared: str | None, is_exclusive: bool) -> None:
    assert observe(job_11={"shared": shared}).lenders[0].is_exclusive == is_exclusive


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "mixed", "state_flags": ["DRAIN"]}, "mixed+drain"),
        ({"state": "down", "state_flags": ["NOT_RESPONDING"]}, "down+not_responding"),
        ({"state": "idle", "state_flags": ["SOMETHING_NEW"]}, "idle+something_new"),
        (
            {"gres": "bubble:2,gpu:2"},
            "without a type per bubble (gres.conf: Name=bubble Type=g0 …)",
        ),
        ({"gres": "bubble:::"}, "without a readable Gres (not a GRES: 'bubble:::')"),
        ({"state": "idle", "state_flags": ["COMPLETING"]}, ""),
    ],
)
def test_a_node_that_is_no_use_says_why(changes: dict[str, object], reason: str) -> None:
    assert observe(n1=changes).nodes[0].unusable == reason


@pytest.mark.parametrize(
    ("text", "state"), [("bubble|inactive|FORCE:4\n", "inactive"), ("main|up|NO\n", "not there")]
)
def test_the_tenant_partitions_state(text: str, state: str) -> None:
    assert observe(partitions=text).partition_state == state


@pytest.mark.parametrize("detail", ["gpu:2", "gpu:2(IDX:N/A)", "gpu:::"])
def test_a_lender_whose_devices_slurm_does_not_tell(detail: str) -> None:
    (lender,) = observe(job_11={"gres_detail": [detail, detail]}).lenders
    assert lender.devices is None


@pytest.mark.parametrize(
    "changes",
    [
        {"excluded_nodes": "n[1-"},
        {"tres_per_node": "gres:\u0000"},
        {"comment": "hydro:failed=\n;count=9" * 99},
        {"required_nodes": "n[1-999999999]"},
    ],
)
def test_text_of_one_user_does_not_blind_the_coordinator(changes: dict[str, object]) -> None:
    assert [gang.job_id for gang in observe(job_12=changes).gangs] == [12, 13, 14, 15, 17]


# --- what cannot be read, and commands that fail ------------------------------------------------


@pytest.mark.parametrize(
    ("squeue", "said"),
    [
        ("", "gave no JSON with a list 'jobs'"),
        ("Segmentation fault", "gave no JSON with a list 'jobs'"),
        ('{"jobs": {}}', "gave no JSON with a list 'jobs'"),
        ('["jobs"]', "gave no JSON with a list 'jobs'"),
        ('{"jobs": [1]}', "a job record without 'job_id'"),
        ('{"jobs": [{"job_id": 4}]}', "field 'partition' of job 4 is not a str"),
        (
            '{"jobs": [{"job_id": 4, "partition": "bubble", "job_state": ["PENDING"]}]}',
            "field 'job_state' of job 4 is not a str",
        ),
    ],
)
def test_other_json_is_refused_in_one_sentence(squeue: str, said: str) -> None:
    with pytest.raises(SlurmError) as caught:
        CommandLineSlurm(run=Answers(squeue=squeue)).observe()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_command_that_fails_is_told_by_its_last_words() -> None:
    def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        said = "noise\nslurm_load_jobs error: Unable to contact slurm controller\n\n"
        return subprocess.CompletedProcess(argv, 1, "", said)

    with pytest.raises(SlurmError, match=r"failed: .*Unable to contact slurm controller$"):
        CommandLineSlurm(run=run).observe()


def test_a_command_that_hangs_is_given_up() -> None:
    def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(list(argv), 15)

    with pytest.raises(SlurmError, match="scontrol release 7: no answer from slurmctld in 15 s"):
        CommandLineSlurm(run=run).release(7)


def test_a_missing_command_is_named() -> None:
    def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError(argv[0])

    with pytest.raises(SlurmError, match="scontrol is not installed here"):
        CommandLineSlurm(run=run).hold(7)


def test_a_pin_is_one_update() -> None:
    answers = Answers()
    placement = Placement(nodes=("n1", "n2"), indexes=(0, 1), by_count=True, cpus_per_task=2)
    CommandLineSlurm(run=answers).pin(7, placement, mark="hydro:want=4-4;waiting=a b", delay_s=2)
    (argv,) = answers.asked
    assert " ".join(argv[:-1]) == (
        "scontrol update JobId=7 NumNodes=2 NumTasks=4 MinCPUsNode=4 ReqNodeList=n1,n2 "
        "Gres=bubble:2 StartTime=now+2"
    )
    assert argv[-1] == "AdminComment=hydro:want=4-4;waiting=a b"
