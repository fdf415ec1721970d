"""Faults of the tenant: the primary's curve and steps are as without it, no result is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from hydro_hpc.identity import is_stopped
from hydro_hpc.page import page_path
from hydro_hpc.page_layout import LEASE_FILE_NAME, SIZES, PageKind
from hydro_hpc.report.lane_status import lane_status
from hydro_hpc.report.lanes import lanes_below
from hydro_hpc.study import load_study
from tests.soak.faults import Fault, cases, suffer
from tests.soak.jobs import GangJob, wait_until
from tests.soak.node import TENANT_LANE
from tests.soak.world import World

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


def kill_worker(world: World, _: random.Random) -> None:
    os.kill(world.gang.child("worker"), signal.SIGKILL)


def kill_search(world: World, _: random.Random) -> None:
    os.kill(world.gang.child("searcher"), signal.SIGKILL)


def kill_supervisor(world: World, _: random.Random) -> None:
    world.gang.process.kill()


def stop_worker(world: World, rng: random.Random) -> None:
    _stop_for_a_while(world, world.gang.child("worker"), rng)


def stop_supervisor(world: World, rng: random.Random) -> None:
    _stop_for_a_while(world, world.gang.process.pid, rng)


def _stop_for_a_while(world: World, pid: int, rng: random.Random) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid), "it is stopped")
    world.check_primary_goes_on()
    time.sleep(rng.uniform(0, 1))
    os.kill(pid, signal.SIGCONT)


def restart_supervisor(world: World, _: random.Random) -> None:
    """Another step of the same job comes before anybody has noticed that the first one is dead."""
    dead = world.gang
    second = GangJob(world.node, job=dead.job, step=1)
    assert "held by step" in second.answer
    second.process.communicate()
    dead.process.kill()
    dead.process.communicate()
    wait_until(lambda: not world.node.processes("take"), "its children end with it", 5)
    world.replace_gang(GangJob(world.node, job=dead.job, step=2))


def delete_lease(world: World, _: random.Random) -> None:
    Path(world.node.lane(TENANT_LANE), LEASE_FILE_NAME).unlink()


def truncate_page(world: World, rng: random.Random) -> None:
    os.truncate(_trial_page(world), rng.choice([0, 100, 4096, SIZES[PageKind.TRIAL] // 2]))


def corrupt_page(world: World, rng: random.Random) -> None:
    """As one who writes wildly: some of its words, again and again."""
    with open(_trial_page(world), "r+b") as page:
        for _ in range(50):
            page.seek(rng.randrange(0, 4096, 4))
            page.write(rng.randbytes(4 * rng.randrange(1, 20)))
            page.flush()
            time.sleep(0.001)


def _trial_page(world: World) -> str:
    return page_path(world.node.lane(TENANT_LANE), PageKind.TRIAL)


def gang_is_gone(world: World) -> None:
    world.check_primary_goes_on()
    world.gang.wait_for_end()
    world.check_gang_is_gone()


def gang_finds_more(world: World) -> None:
    """It works on, and reports read what it can."""
    world.check_primary_goes_on()
    world.wait_for_result()
    for place in lanes_below(world.node.pages, node="soak"):
        lane_status(place)
    os.kill(world.gang.child("worker"), signal.SIGKILL)  # its successor's page is whole again
    world.wait_for_training()


def gang_goes_on(world: World) -> None:
    world.check_primary_goes_on()
    world.wait_for_training()


FAULTS = (
    Fault(name="kill_worker", whom="worker", do=kill_worker, holds=gang_goes_on),
    Fault(
        name="kill_search", whom="search", do=kill_search, holds=gang_is_gone, in_make_test=False
    ),
    Fault(name="stop_worker", whom="worker", do=stop_worker, holds=gang_goes_on),
    Fault(name="stop_supervisor", whom="supervisor", do=stop_supervisor, holds=gang_goes_on),
    Fault(name="delete_lease", whom="lease", do=delete_lease, holds=gang_goes_on),
    Fault(
        name="corrupt_page",
        whom="trial",
        do=corrupt_page,
        holds=gang_finds_more,
        in_make_test=False,
    ),
    Fault(name="truncate_page", whom="trial", do=truncate_page, holds=gang_is_gone),
    Fault(
        name="restart_supervisor",
        whom="supervisor",
        do=restart_supervisor,
        holds=gang_goes_on,
        in_make_test=False,
    ),
    Fault(
        name="kill_supervisor",
        whom="supervisor",
        do=kill_supervisor,
        holds=gang_is_gone,
        in_make_test=False,
    ),
)


@cases(FAULTS)
def test_primary_is_unharmed_and_no_result_is_lost(world: World, fault: Fault, seed: int) -> None:
    suffer(world, fault, seed)


def test_results_are_those_of_an_undisturbed_training(world: World) -> None:
    results = {number: result for number, result in world.results().items() if result.state == 1}
    number = max(results)  # it was in work while the faults came
    study = load_study(world.study)
    value = study.run_alone({"lr": results[number].lr}, world.seed_of(number))
    assert value == pytest.approx(results[number].value, rel=1e-3)
