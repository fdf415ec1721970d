"""The coordinator may die at any point, and Slurm may refuse or be away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydro_hpc.errors import SlurmError
from slurm_plugin.coordinator import Coordinator
from slurm_plugin.in_memory_client import InMemorySlurm
from slurm_plugin.slurm import Device, Facts, JobState, Placement
from tests.slurm_plugin.coordinators import N1, N2, make_coordinator, make_slurm, waiting


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
