"""What every client of the port does alike: the same tests on a Slurm in memory and a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from hydro_hpc.devcluster import Cluster
from hydro_hpc.errors import SlurmError
from slurm_plugin.commandline_client import CommandLineSlurm
from slurm_plugin.in_memory_client import InMemorySlurm
from slurm_plugin.marks import Failure, Wish, print_gang_mark
from slurm_plugin.slurm import (
    RESTART_DELAY_S,
    Device,
    Facts,
    Gang,
    JobState,
    Lender,
    Node,
    Pin,
    Placement,
    Slurm,
)

DEVICES = (Device("n1", 0), Device("n2", 0))
BOTH = Placement(nodes=("n1", "n2"), indexes=(0,), by_count=True)
ONE = Placement(nodes=("n2",), indexes=(0,), by_count=False)
NO_JOB = 999_999
WAIT_S = 30.0


class World(Protocol):
    """A Slurm of two nodes of one device, with the users who make things happen in it."""

    @property
    def client(self) -> Slurm: ...

    def submit_lender(self) -> int:
        """A job that holds both devices and lends them."""

    def submit_gang(self, wish: str) -> int: ...

    def leave(self, job_id: int) -> None:
        """The gang's owner reports `lane-missing` once and requeues it held."""

    def set_partition(self, state: str) -> None: ...

    def wait(self, condition: Callable[[Facts], bool]) -> Facts:
        """Returns the first facts of which the condition is true."""


class MemoryWorld:
    def __init__(self) -> None:
        self.client = InMemorySlurm(
            Node(name=name, devices=(0,), cpus_free=8, memory_free_mib=1000)
            for name in ("n1", "n2")
        )

    def submit_lender(self) -> int:
        return self.client.submit_lender(DEVICES)

    def submit_gang(self, wish: str) -> int:
        return self.client.submit_gang(wish)

    def leave(self, job_id: int) -> None:
        self.client.leave(job_id, reason="lane-missing")

    def set_partition(self, state: str) -> None:
        self.client.partition_state = state

    def wait(self, condition: Callable[[Facts], bool]) -> Facts:
        for _ in range(int(WAIT_S)):
            self.client.advance()
            if condition(facts := self.client.observe()):
                return facts
            self.client.now_s += 1
        raise AssertionError(facts)


class ClusterWorld:
    """The embedded cluster: alice lends, bob's gangs wait, root does what the coordinator would.

    The cluster's own coordinator is stopped meanwhile.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._coordinator = cluster.status().processes["coordinator"]
        self.client = CommandLineSlurm(run=self._as_root)
        os.kill(self._coordinator, signal.SIGSTOP)

    def _as_root(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self._cluster.on_node("login", argv, timeout_s=WAIT_S)

    def _sbatch(self, user: str, *options: str) -> int:
        script = "#!/bin/sh\nexec sleep 300\n"
        argv = ["sbatch", "--parsable", "--output=/dev/null", *options]
        done = self._cluster.run(argv, user=user, input=script)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def submit_lender(self) -> int:
        job = self._sbatch(
            "alice", "--hydro-bubble", "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:1"
        )
        self.wait(lambda facts: any(x.state is JobState.RUNNING for x in facts.lenders))
        return job

    def submit_gang(self, wish: str) -> int:
        """Its name and comment try to pass for other marks and other jobs."""
        forged = '"}],\nJobId=1 AdminComment=hydro:lend'
        return self._sbatch(
            "bob", f"--bubbles={wish}", f"--job-name={forged}", "--comment=hydro:lend"
        )

    def leave(self, job_id: int) -> None:
        comment = "Comment=hydro:failed=lane-missing;count=1"
        for words in (["update", f"JobId={job_id}", comment], ["requeuehold", str(job_id)]):
            done = self._cluster.run(["scontrol", *words], user="bob")
            assert done.returncode == 0, done.stderr

    def set_partition(self, state: str) -> None:
        done = self._as_root(["scontrol", "update", "PartitionName=bubble", f"State={state}"])
        assert done.returncode == 0, done.stderr

    def wait(self, condition: Callable[[Facts], bool]) -> Facts:
        deadline = time.monotonic() + WAIT_S
        while not condition(facts := self.client.observe()):
            assert time.monotonic() < deadline, facts
            time.sleep(0.05)
        return facts

    def clear(self) -> None:
        self.set_partition("up")
        self._as_root(["scancel", "--user=alice"])
        self._as_root(["scancel", "--user=bob"])
        self.wait(lambda facts: not facts.gangs and not facts.lenders and not facts.others)
        os.kill(self._coordinator, signal.SIGCONT)


class SlurmContract:
    """The port's promises. A client's test class inherits this and gives the `world` fixture."""

    def test_nodes_are_there(self, world: World) -> None:
        facts = world.client.observe()
        assert {node.name: node.devices for node in facts.nodes} == {"n1": (0,), "n2": (0,)}
        assert all(not node.unusable and node.memory_free_mib > 0 for node in facts.nodes)
        assert (facts.partition, facts.partition_state) == ("bubble", "up")

    def test_a_lender_shows_its_devices(self, world: World) -> None:
        job = world.submit_lender()
        assert world.client.observe().lenders == (
            Lender(job_id=job, state=JobState.RUNNING, devices=DEVICES),
        )

    def test_a_waiting_gang_shows_its_wish_and_no_forged_mark(self, world: World) -> None:
        job = world.submit_gang("1-2")
        facts = world.client.observe()
        (gang,) = facts.gangs
        assert (gang.job_id, gang.state, gang.wish) == (job, JobState.HELD, Wish(low=1, high=2))
        assert (gang.pin, gang.devices, gang.failure, gang.waiting) == (None, (), None, "")
        assert (gang.num_requeues, gang.unplaceable) == (0, "")
        assert facts.lenders == ()

    @pytest.mark.parametrize("placement", [BOTH, ONE])
    def test_a_pinned_and_released_gang_gets_just_its_devices(
        self, world: World, placement: Placement
    ) -> None:
        world.submit_lender()
        job = world.submit_gang("1-2")
        world.client.pin(job, placement, mark="hydro:want=1-2", delay_s=0)
        pinned = the(world.client.observe(), job)
        assert pinned.state is JobState.HELD
        world.client.release(job)
        running = the(world.wait(in_state(job, JobState.RUNNING)), job)
        assert running.devices == placement.devices
        assert running.pin == Pin(
            indexes=() if placement.by_count else (0,), count=1, nodes=placement.nodes
        )
        assert pinned.pin == running.pin

    def test_pinning_and_releasing_twice_is_as_once(self, world: World) -> None:
        world.submit_lender()
        job = world.submit_gang("2")
        for _ in range(2):
            world.client.pin(job, BOTH, mark="hydro:want=2-2", delay_s=0)
        world.client.release(job)
        assert the(world.wait(in_state(job, JobState.RUNNING)), job).devices == DEVICES

    def test_a_gang_that_leaves_is_held_with_its_report_and_its_pin(self, world: World) -> None:
        world.submit_lender()
        job = start(world, BOTH)
        world.leave(job)
        back = the(world.wait(in_state(job, JobState.HELD)), job)
        assert back.failure == Failure(reason="lane-missing", count=1)
        assert (back.num_requeues, back.num_nodes, back.devices) == (1, 2, ())
        assert back.pin == Pin(count=1, nodes=("n1", "n2"))
        assert back.begin_s >= back.submitted_s + 100, "two minutes ahead, as Slurm does"

    def test_a_gang_that_left_is_placed_again_soon(self, world: World) -> None:
        world.submit_lender()
        job = start(world, BOTH)
        world.leave(job)
        world.wait(in_state(job, JobState.HELD))
        world.client.pin(job, BOTH, mark="hydro:want=2-2", delay_s=RESTART_DELAY_S)
        world.client.release(job)
        assert the(world.wait(in_state(job, JobState.RUNNING)), job).devices == DEVICES

    def test_a_running_gang_can_be_requeued_held(self, world: World) -> None:
        world.submit_lender()
        job = start(world, BOTH)
        world.client.requeue_held(job)
        back = the(world.wait(in_state(job, JobState.HELD)), job)
        assert (back.num_requeues, back.failure) == (1, None)

    def test_a_released_gang_can_be_held_before_it_starts(self, world: World) -> None:
        job = world.submit_gang("2")
        world.client.pin(job, BOTH, mark="hydro:want=2-2", delay_s=0)
        world.set_partition("down")
        world.client.release(job)
        assert the(world.client.observe(), job).state is JobState.RELEASED
        assert world.client.observe().partition_state == "down"
        world.client.hold(job)
        world.client.mark(job, "hydro:want=2-2;waiting=partition bubble is down")
        held = the(world.client.observe(), job)
        assert (held.state, held.pin) == (JobState.HELD, Pin(count=1, nodes=("n1", "n2")))
        assert held.waiting == "partition bubble is down"

    def test_an_inactive_partition_refuses_changes_but_not_requeueing(self, world: World) -> None:
        world.submit_lender()
        job, waiting = start(world, BOTH), world.submit_gang("2")
        world.set_partition("inactive")
        assert world.client.observe().partition_state == "inactive"
        with pytest.raises(SlurmError):
            world.client.mark(waiting, "hydro:want=2-2;waiting=x")
        with pytest.raises(SlurmError):
            world.client.release(waiting)
        world.client.requeue_held(job)
        world.wait(in_state(job, JobState.HELD))

    def test_a_mark_tells_why_and_keeps_the_wish(self, world: World) -> None:
        job = world.submit_gang("1-2")
        reason = "n1 has 5 MiB of memory left, the gang (job 7) needs 100; 'wait' a \"bit\" = é"
        world.client.mark(job, print_gang_mark(Wish(low=1, high=2), reason))
        gang = the(world.client.observe(), job)
        assert (gang.waiting, gang.wish) == (reason.replace(";", ","), Wish(low=1, high=2))

    @pytest.mark.parametrize(
        "change",
        [
            lambda client: client.pin(NO_JOB, BOTH, mark="hydro:want=2-2", delay_s=0),
            lambda client: client.release(NO_JOB),
            lambda client: client.hold(NO_JOB),
            lambda client: client.requeue_held(NO_JOB),
            lambda client: client.mark(NO_JOB, "hydro:want=2-2"),
        ],
        ids=["pin", "release", "hold", "requeue_held", "mark"],
    )
    def test_a_job_that_is_gone_is_an_error_of_one_line(
        self, world: World, change: Callable[[Slurm], None]
    ) -> None:
        with pytest.raises(SlurmError) as caught:
            change(world.client)
        assert len(str(caught.value).splitlines()) == 1


def the(facts: Facts, job_id: int) -> Gang:
    (found,) = (gang for gang in facts.gangs if gang.job_id == job_id)
    return found


def in_state(job_id: int, state: JobState) -> Callable[[Facts], bool]:
    return lambda facts: the(facts, job_id).state is state


def start(world: World, placement: Placement) -> int:
    """Submits a gang and waits until it runs there."""
    job = world.submit_gang(f"{placement.num_tasks}")
    mark = f"hydro:want={placement.num_tasks}-{placement.num_tasks}"
    world.client.pin(job, placement, mark=mark, delay_s=0)
    world.client.release(job)
    world.wait(in_state(job, JobState.RUNNING))
    return job


class TestInMemory(SlurmContract):
    @pytest.fixture
    def world(self) -> World:
        return MemoryWorld()


@pytest.mark.slurm
class TestCommandLine(SlurmContract):
    @pytest.fixture
    def world(self, cluster: Cluster) -> Iterator[World]:
        made = ClusterWorld(cluster)
        yield made
        made.clear()


def test_only_the_clients_import_what_is_foreign() -> None:
    """Decisions know no commands, files or clocks of their own."""
    pure = (
        "gres",
        "hostlist",
        "marks",
        "slurm",
        "slurm_json",
        "eligibility",
        "placement",
        "reconcile",
    )
    foreign = ("subprocess", "os", "pathlib", "pyslurm", "hydro_hpc")
    directory = Path(__file__).parents[2] / "slurm_plugin"
    for name in pure:
        lines = (directory / f"{name}.py").read_text().splitlines()
        imports = {
            line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))
        }
        assert not imports & set(foreign), name
