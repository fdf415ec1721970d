"""A tree of real processes, paused, continued and ended as one, by signals and by a cgroup."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc.identity import is_stopped
from hydro_hpc.trial.freezer import Freezer, make_freezer
from tests.hydro_hpc.trial.solo import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]

# A parent of a tree, which does one line of input after the other and answers.
PARENT = """
import os, subprocess, sys
from hydro_hpc.devices import cpu_core
from hydro_hpc.trial.freezer import make_freezer
from hydro_hpc.trial.process_tree import BySignals, ProcessTree, descendants
cpu_core.adopt_orphans()
freezer = make_freezer(sys.argv[1]) if sys.argv[1] else None
first = subprocess.Popen(["sh", "-c", sys.argv[2]], preexec_fn=freezer.join if freezer else None)
tree = ProcessTree(os.getpid(), freezer or BySignals(os.getpid()), first_pid=first.pid)
for line in sys.stdin:
    print(eval(line), flush=True)
first.returncode = 0
if freezer:
    freezer.close()
"""
BUSY = "while :; do :; done"


class Parent:
    def __init__(self, group: str, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, group, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, expression: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def num_members(self) -> int:
        return int(self.ask("len(descendants(os.getpid()))"))

    def used_ns(self) -> int:
        return int(self.ask("tree.used_ns()"))

    def close(self) -> None:
        self.ask("tree.kill(give_up_s=5)")
        self.process.communicate()


@pytest.fixture(params=["signals", "cgroup"])
def group(request: pytest.FixtureRequest) -> str:
    if request.param == "signals":
        return ""
    name = f"hydro-test-{os.getpid()}"
    freezer = make_freezer(name)
    if freezer is None:
        pytest.skip("this process may make no cgroup that freezes")
    freezer.close()
    return name


@pytest.fixture
def tree(group: str) -> Iterator[Parent]:
    script = f"({BUSY}) & setsid sh -c '{BUSY}' & (setsid sh -c 'sleep 60; :' &) ; wait"
    parent = Parent(group, script)
    wait_until(lambda: parent.num_members() >= 5)
    yield parent
    parent.close()


def test_processes_that_left_group_and_parent_are_paused_and_continued(tree: Parent) -> None:
    wait_until(lambda: tree.used_ns() > 0)
    tree.ask("tree.pause()")
    time.sleep(0.05)  # what was on a core leaves it
    before_ns = tree.used_ns()
    time.sleep(0.3)
    assert tree.used_ns() == before_ns
    tree.ask("tree.resume()")
    wait_until(lambda: tree.used_ns() > before_ns)


def test_nothing_is_left_of_a_paused_tree_that_is_killed(tree: Parent) -> None:
    pids = [int(pid) for pid in tree.ask("descendants(os.getpid())").strip("[]").split(",")]
    tree.ask("tree.pause()")
    assert tree.ask("tree.kill(give_up_s=5)") == "True"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_tree_that_is_asked_to_end_gets_sigterm_while_it_runs(group: str) -> None:
    parent = Parent(group, "trap 'exit 9' TERM; echo ready >&2; while :; do sleep 0.01; done")
    try:
        wait_until(lambda: parent.num_members() == 2)
        parent.ask("tree.pause()")
        parent.ask("tree.ask_to_end()")
        wait_until(lambda: parent.ask("tree.exit_code()") == "9")
    finally:
        parent.close()


def test_time_of_children_that_have_ended_is_counted(group: str) -> None:
    work = f"{sys.executable} -c 'sum(range(10_000_000))'"
    parent = Parent(group, f"{work}; {work}; sleep 60")
    try:
        wait_until(lambda: Path(f"/proc/{parent.ask('first.pid')}").exists())
        wait_until(lambda: parent.num_members() == 2 and parent.used_ns() > 150_000_000)
    finally:
        parent.close()


def test_who_was_stopped_by_somebody_else_is_left_to_him() -> None:
    parent = Parent("", "kill -STOP $$; exit 3")
    try:
        pid = int(parent.ask("first.pid"))
        wait_until(lambda: is_stopped(pid))
        parent.ask("tree.pause()")
        parent.ask("tree.resume()")
        assert is_stopped(pid)
        parent.ask("tree.ask_to_end()")
        wait_until(lambda: parent.ask("tree.exit_code()") != "None")
    finally:
        parent.close()


def test_group_whose_maker_was_killed_can_be_thawed_and_removed(group: str) -> None:
    if not group:
        pytest.skip("signals leave no group")
    first = make_freezer(group)
    assert isinstance(first, Freezer)
    first.pause()
    again = make_freezer(group)
    assert again is not None
    again.close()
    assert not Path(again.directory).exists()
