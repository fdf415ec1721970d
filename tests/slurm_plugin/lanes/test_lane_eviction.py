"""Ending a step's processes for certain; without Slurm, so by session and descent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from slurm_plugin.eviction import end_steps
from slurm_plugin.step_processes import Step, cgroup_dirs, members, step_cgroup, step_of

pytestmark = pytest.mark.processes

FORKING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    if os.fork() == 0:
        time.sleep(60)
    time.sleep(0.02)
"""
IGNORING = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def start(started: list[subprocess.Popen[str]], code: str) -> tuple[subprocess.Popen[str], Step]:
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process, Step("", process.pid, step_of(process.pid).first_start_ticks)


@pytest.mark.parametrize("code", [IGNORING, FORKING], ids=["ignoring", "forking"])
def test_whoever_does_not_leave_is_killed_with_all_children(
    started: list[subprocess.Popen[str]], code: str
) -> None:
    process, step = start(started, code)
    assert end_steps([step], grace_s=0.1, kill_s=5) == []
    assert process.wait(timeout=5) == -signal.SIGKILL
    assert members(step) == set()


def test_a_stopped_tenant_is_killed(started: list[subprocess.Popen[str]]) -> None:
    process, step = start(started, POLITE)
    process.send_signal(signal.SIGSTOP)
    assert end_steps([step], grace_s=0.1, kill_s=5) == []
    assert process.wait(timeout=5) == -signal.SIGKILL


def test_a_tenant_that_leaves_is_not_killed(started: list[subprocess.Popen[str]]) -> None:
    process, step = start(started, POLITE)
    assert end_steps([step], grace_s=30, kill_s=0) == []
    assert process.wait(timeout=5) == 75


def test_tenants_leave_at_the_same_time(started: list[subprocess.Popen[str]]) -> None:
    steps = [start(started, IGNORING)[1] for _ in range(3)]
    begin = time.monotonic()
    assert end_steps(steps, grace_s=0.5, kill_s=5) == []
    assert time.monotonic() - begin < 1.5, "three graces, one after the other"


def test_another_process_with_the_same_number_is_left_alone(
    started: list[subprocess.Popen[str]],
) -> None:
    process, step = start(started, POLITE)
    assert end_steps([step._replace(first_start_ticks=1)], grace_s=0, kill_s=1) == []
    assert process.poll() is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (
            "5:devices:/slurm_n1/uid_7/job_5/step_0/task_1\n1:name=systemd:/\n",
            "/slurm_n1/uid_7/job_5/step_0",
        ),
        (
            "0::/system.slice/slurmstepd.scope/job_5/step_batch/slurm\n",
            "/system.slice/slurmstepd.scope/job_5/step_batch",
        ),
        (
            "0::/system.slice/slurmstepd.scope/job_s1A/step_0/user/task_0\n",
            "/system.slice/slurmstepd.scope/job_s1A/step_0",
        ),
        (
            "4:freezer:/slurm/uid_7/job_5\n3:devices:/slurm/uid_7/job_5/step_0\n",
            "/slurm/uid_7/job_5/step_0",
        ),
        ("0::/user.slice\n", ""),
        ("0::/../step_0\n", ""),
        ("", ""),
    ],
)
def test_a_steps_cgroup_is_read_from_its_process(text: str, path: str) -> None:
    assert step_cgroup(text) == path


def test_a_cgroup_path_stays_below_the_mount() -> None:
    assert cgroup_dirs("/../../etc") == []
    assert cgroup_dirs("relative") == []
    assert cgroup_dirs(f"/no_such_{os.getpid()}") == []
