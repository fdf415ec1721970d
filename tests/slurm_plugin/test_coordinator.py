"""The coordinator against a Slurm in memory: what it does, and that it may die at any point."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydro_hpc.errors import SlurmError
from slurm_plugin.coordinator import Coordinator
from slurm_plugin.in_memory_client import InMemorySlurm
from slurm_plugin.placement import Patience
from slurm_plugin.reconcile import Grace
from slurm_plugin.slurm import Device, Facts, JobState, Node, Placement

N1, N2 = Device("n1", 0), Device("n2", 0)


def make_slurm(*, nodes: int = 2, devices: int = 1) -> InMemorySlurm:
    return InMemorySlurm(
        Node(
            name=f"n{number}",
            devices=tuple(range(devices)),
            cpus_free=16,
            memory_free_mib=1000,
        )
        for number in range(1, nodes + 1)
    )


def make_coordinator(slurm: InMemorySlurm) -> Coordinator:
    return Coordinator(
        slurm,
        clock=lambda: slurm.now_s,
        patience=Patience(first_delay_s=5, longest_delay_s=300, hoards_after_s=600),
        grace=Grace(unlent_s=30, stranded_s=5),
    )


def waiting(slurm: InMemorySlurm, job_id: int) -> str:
    (gang,) = (gang for gang in slurm.observe().gangs if gang.job_id == job_id)
    return gang.waiting


# --- one thing after the other ------------------------------------------------------------------


def test_a_gang_is_pinned_released_and_runs_on_what_is_lent() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    make_coordinator(slurm).step()
    assert slurm.story == [f"pin {gang} bubble:1 on n1,n2", f"release {gang}"]
    slurm.advance()
    assert slurm.jobs[gang].devices == (N1, N2)


def test_nothing_is_done_twice() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    slurm.submit_gang("2")
    slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    coordinator.step()
    story = list(slurm.story)
    slurm.advance(1)
    coordinator.step()
    assert slurm.story == story


def test_a_waiting_gang_says_why_and_forgets_it_when_it_is_placed() -> None:
    slurm = make_slurm()
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    assert waiting(slurm, gang) == "no running job lends its bubbles"
    slurm.submit_lender([N1, N2])
    coordinator.step()
    assert waiting(slurm, gang) == ""
    assert slurm.jobs[gang].admin_comment == "hydro:want=2-2"


def test_a_gang_that_leaves_is_placed_again_after_its_delay() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    for delay_s in (5, 10, 20):
        slurm.leave(gang, reason="guard-tripped")
        slurm.advance(delay_s - 1)
        coordinator.step()
        assert slurm.jobs[gang].state is JobState.HELD
        assert "guard-tripped" in waiting(slurm, gang)
        slurm.advance(1)
        coordinator.step()
        slurm.advance(2)
        assert slurm.jobs[gang].state is JobState.RUNNING, "soon, not in two minutes"


def test_a_gang_that_slurm_requeued_starts_soon() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    slurm.requeue(gang)
    slurm.advance()
    assert slurm.jobs[gang].state is JobState.RELEASED
    coordinator.step()
    coordinator.step()
    slurm.advance(2)
    assert slurm.jobs[gang].state is JobState.RUNNING
    assert len(slurm.story) == 3, slurm.story


@pytest.mark.parametrize("is_held", [True, False])
def test_a_requeued_gang_is_not_started_in_the_second_of_its_end(is_held: bool) -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    if is_held:
        slurm.requeue_held(gang)
    else:
        slurm.requeue(gang)
    coordinator.step()
    slurm.advance()
    assert not slurm.lost
    slurm.advance(2)
    assert slurm.jobs[gang].state is JobState.RUNNING


def test_a_released_gang_whose_lender_ended_is_called_back() -> None:
    slurm = make_slurm()
    lender = slurm.submit_lender([N1])
    gang = slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.end(lender)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.RELEASED, "not at the first look"
    slurm.now_s += 5
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.HELD
    slurm.submit_lender([N2])
    coordinator.step()
    slurm.advance()
    assert slurm.jobs[gang].devices == (N2,)


def test_a_released_gang_whose_room_was_taken_is_called_back_and_told() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1])
    gang = slurm.submit_gang("1", memory_per_cpu_mib=100)
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.nodes["n1"] = replace(slurm.nodes["n1"], memory_free_mib=99)
    coordinator.step()
    slurm.advance(5)
    coordinator.step()
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.HELD
    assert waiting(slurm, gang) == "n1 has 99 MiB of memory left and the gang needs 100"


def test_a_running_gang_without_a_lender_is_requeued_held_after_its_grace() -> None:
    slurm = make_slurm()
    lender = slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    slurm.end(lender)
    coordinator.step()
    slurm.advance(29)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.RUNNING
    slurm.advance(1)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.HELD


def test_a_gang_whose_lender_comes_back_in_time_is_left_alone() -> None:
    slurm = make_slurm()
    lender = slurm.submit_lender([N1])
    gang = slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    slurm.end(lender)
    coordinator.step()
    slurm.advance(20)
    slurm.submit_lender([N1])
    coordinator.step()
    slurm.advance(20)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.RUNNING


@pytest.mark.parametrize(
    ("state", "reason"), [("inactive", ""), ("down", "partition bubble is down")]
)
def test_nothing_is_placed_while_the_partition_is_not_up(
    state: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    first, second = slurm.submit_gang("1"), slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    slurm.partition_state = state
    coordinator.step()
    assert waiting(slurm, first) == waiting(slurm, second) == reason
    assert "event=refused" not in caplog.text
    slurm.partition_state = "up"
    coordinator.step()
    slurm.advance()
    assert {slurm.jobs[job].devices for job in (first, second)} == {(N1,), (N2,)}


# --- faults -------------------------------------------------------------------------------------


class Died(BaseException):
    """The coordinator was killed."""


class Mortal:
    """A Slurm whose caller dies before its `lives`-th change, which then does not happen."""

    def __init__(self, slurm: InMemorySlurm, lives: int) -> None:
        self._slurm = slurm
        self._lives = lives

    def _live(self) -> InMemorySlurm:
        if self._lives == 0:
            raise Died
        self._lives -= 1
        return self._slurm

    def observe(self) -> Facts:
        return self._slurm.observe()

    def pin(self, job_id: int, placement: Placement, *, mark: str, delay_s: int) -> None:
        self._live().pin(job_id, placement, mark=mark, delay_s=delay_s)

    def release(self, job_id: int) -> None:
        self._live().release(job_id)

    def hold(self, job_id: int) -> None:
        self._live().hold(job_id)

    def requeue_held(self, job_id: int) -> None:
        self._live().requeue_held(job_id)

    def mark(self, job_id: int, mark: str) -> None:
        self._live().mark(job_id, mark)


def check_invariants(slurm: InMemorySlurm) -> None:
    """No device has two tenants, and each gang has what its request shows, on alike nodes."""
    assert not slurm.lost
    seen: set[Device] = set()
    for job in slurm.jobs.values():
        if not job.is_tenant or job.state is not JobState.RUNNING:
            continue
        assert not seen & set(job.devices)
        seen |= set(job.devices)
        by_node = [{d.index for d in job.devices if d.node == name} for name in job.nodes]
        assert all(indexes == by_node[0] for indexes in by_node)
        assert job.num_tasks == len(job.devices)
        assert job.shown is not None
        assert job.shown.is_typed == bool(job.asked)
        assert job.asked == set(job.shown.indexes), "types have piled up"


EVENTS = st.sampled_from(
    ["lend", "gang", "end", "leave", "requeue", "drain", "close", "tick", "tick", "step", "step"]
)


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.tuples(EVENTS, st.integers(0, 30), st.integers(0, 4)), max_size=40),
    devices=st.integers(1, 3),
)
def test_a_coordinator_that_dies_anywhere_does_no_harm(
    events: Sequence[tuple[str, int, int]], devices: int
) -> None:
    slurm = make_slurm(nodes=3, devices=devices)
    for event, number, lives in events:
        happen(slurm, event, number, lives)
        slurm.advance()
        check_invariants(slurm)
    settle(slurm)
    check_invariants(slurm)
    for job in slurm.jobs.values():
        is_waiting = job.is_tenant and job.state is not JobState.RUNNING
        assert not is_waiting or waiting(slurm, job.job_id), "a gang that waits says why"


def happen(slurm: InMemorySlurm, event: str, number: int, lives: int) -> None:
    """One random event; `number` picks whom it concerns, a step dies after `lives` changes."""
    jobs = sorted(slurm.jobs)
    lent = {d for job in slurm.jobs.values() if not job.is_tenant for d in job.devices}
    unlent = [Device(n.name, i) for n in slurm.nodes.values() for i in n.devices]
    unlent = [device for device in unlent if device not in lent]
    running = [job for job in jobs if slurm.jobs[job].state is JobState.RUNNING]
    running_gangs = [job for job in running if slurm.jobs[job].is_tenant]
    if event == "lend" and unlent:
        slurm.submit_lender(unlent[: 1 + number % len(unlent)])
    elif event == "gang":
        low = 1 + number % 4
        slurm.submit_gang(f"{low}-{low + number % 3}", memory_per_cpu_mib=number * 20)
    elif event == "end" and jobs:
        slurm.end(jobs[number % len(jobs)])
    elif event == "leave" and running_gangs:
        slurm.leave(running_gangs[number % len(running_gangs)], reason="no-writer")
    elif event == "requeue" and running_gangs:
        slurm.requeue(running_gangs[number % len(running_gangs)])
    elif event == "close":
        slurm.partition_state = "inactive" if number % 2 else "up"
    elif event == "tick":
        slurm.advance(number)
    elif event == "step":
        step_mortally(slurm, lives)


def step_mortally(slurm: InMemorySlurm, lives: int) -> None:
    coordinator = Coordinator(Mortal(slurm, lives), clock=lambda: slurm.now_s)
    try:
        coordinator.step()
    except Died:
        return


def settle(slurm: InMemorySlurm) -> None:
    """A coordinator that lives, for long enough for every delay and grace."""
    slurm.partition_state = "up"
    coordinator = make_coordinator(slurm)
    for _ in range(30):
        coordinator.step()
        slurm.advance(30)


@pytest.mark.parametrize("lives", range(8))
def test_the_next_coordinator_finishes_what_a_dead_one_began(lives: int) -> None:
    slurm = make_slurm(devices=2)
    slurm.submit_lender([Device("n1", 1), Device("n2", 1)])
    slurm.submit_lender([Device("n1", 0)])
    pair, single = slurm.submit_gang("2"), slurm.submit_gang("1")
    too_large = slurm.submit_gang("9")
    step_mortally(slurm, lives)
    slurm.advance()
    make_coordinator(slurm).step()
    slurm.advance()
    assert slurm.jobs[pair].devices == (Device("n1", 1), Device("n2", 1))
    assert slurm.jobs[single].devices == (Device("n1", 0),)
    assert "the whole cluster has 4" in waiting(slurm, too_large)
    check_invariants(slurm)


class Refusing(Mortal):
    """A Slurm that refuses every change of one job."""

    def __init__(self, slurm: InMemorySlurm, refused: int) -> None:
        super().__init__(slurm, lives=1000)
        self._refused = refused

    def pin(self, job_id: int, placement: Placement, *, mark: str, delay_s: int) -> None:
        if job_id == self._refused:
            raise SlurmError("Requested node configuration is not available")
        super().pin(job_id, placement, mark=mark, delay_s=delay_s)


def test_a_job_that_slurm_refuses_is_not_released_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    refused, other = slurm.submit_gang("1"), slurm.submit_gang("1")
    with caplog.at_level(logging.INFO, "hydro.coordinator"):
        Coordinator(Refusing(slurm, refused), clock=lambda: slurm.now_s).step()
    assert slurm.jobs[refused].state is JobState.HELD
    assert slurm.jobs[other].state is JobState.RELEASED
    assert f"event=refused job={refused}" in caplog.text


class Absent:
    """A Slurm that does not answer, some looks long; `stop` is set after the last."""

    def __init__(self, slurm: InMemorySlurm, answers: list[bool], stop: threading.Event) -> None:
        self._slurm, self._answers, self._stop = slurm, answers, stop

    def observe(self) -> Facts:
        answers = self._answers.pop(0)
        if not self._answers:
            self._stop.set()
        if not answers:
            raise SlurmError("squeue --json: no answer from slurmctld in 15 s")
        return self._slurm.observe()

    def __getattr__(self, name: str) -> object:
        return getattr(self._slurm, name)


def test_slurm_that_is_down_is_said_once_and_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    slurm, stop = make_slurm(), threading.Event()
    absent = Absent(slurm, [False, False, False, True, True], stop)
    with caplog.at_level(logging.INFO, "hydro.coordinator"):
        Coordinator(absent).run(stop, period_s=0)  # type: ignore[arg-type]
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "event=slurm-down",
        "event=slurm-up",
    ]


# --- the command --------------------------------------------------------------------------------


def run_command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "slurm_plugin.coordinator", *words]
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/nowhere", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )


def test_the_command_without_slurm_says_so_in_one_line(tmp_path: Path) -> None:
    done = run_command("--once", "--lock", str(tmp_path / "lock"))
    assert done.returncode == 1
    assert done.stderr == "hydro: sinfo is not installed here; install Slurm's client\n"


def test_a_second_coordinator_is_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    path = tmp_path / "lock"
    with FileLock(path):
        done = run_command("--once", "--lock", str(path))
    assert done.returncode == 1
    assert done.stderr == f"hydro: another coordinator runs and holds {path}; stop it first\n"


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "dir" / "lock"
    path.parent.parent.write_text("a file")
    done = run_command("--once", "--lock", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"hydro: the lock file {path} cannot be made")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("period", ["0", "-1", "nan", "x", "99999"])
def test_a_period_out_of_range_is_a_usage_error(period: str, tmp_path: Path) -> None:
    done = run_command(f"--period={period}", "--lock", str(tmp_path / "lock"))
    assert done.returncode == 2
    assert "--period" in done.stderr
