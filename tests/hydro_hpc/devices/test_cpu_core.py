"""A core as a device: classes, clocks and ends of real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from hydro_hpc.devices import cpu_core

pytestmark = pytest.mark.processes


def run(code: str) -> str:
    """Runs code in a process and a session of its own, since a session has one weight."""
    return subprocess.run(
        [sys.executable, "-c", f"import os\nfrom hydro_hpc.devices import cpu_core\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        start_new_session=True,
    ).stdout.strip()


def test_worker_is_pinned_to_its_core() -> None:
    core = max(os.sched_getaffinity(0))
    assert run(f"cpu_core.pin({core}); print(os.sched_getaffinity(0))") == f"{{{core}}}"


def test_idle_class_is_the_kernels() -> None:
    code = "cpu_core.enter_idle_class(); print(os.sched_getscheduler(0) == os.SCHED_IDLE)"
    assert run(code) == "True"


def test_batch_class_keeps_the_share_of_an_ordinary_task() -> None:
    code = (
        "cpu_core.enter_batch_class()\n"
        "print(os.sched_getscheduler(0) == os.SCHED_BATCH, os.getpriority(os.PRIO_PROCESS, 0))"
    )
    assert run(code) == "True 0"


def test_used_time_grows_with_work_and_not_with_sleep() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        give_up = time.monotonic() + 30
        before = -1
        while before != cpu_core.used_ns(process.pid):  # until it sleeps
            before = cpu_core.used_ns(process.pid)
            time.sleep(0.3)
            assert time.monotonic() < give_up
        assert before > 0
    finally:
        process.kill()
        process.wait()
    with pytest.raises(ProcessLookupError):
        cpu_core.used_ns(process.pid)


def test_child_dies_with_its_parent_however_that_ends() -> None:
    code = """
import subprocess, sys, time
from hydro_hpc.devices import cpu_core
child = subprocess.Popen(["sleep", "60"], preexec_fn=cpu_core.die_with_parent)
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    give_up = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}"):
        assert time.monotonic() < give_up, "the child outlived its parent"
        time.sleep(0.01)
