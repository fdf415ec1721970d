"""Faults of the primary: the gang stops, gives the lane back, and waits with everything kept."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from hydro_hpc.errors import EXIT_TRY_LATER
from hydro_hpc.identity import is_stopped
from hydro_hpc.page import page_path
from hydro_hpc.page_layout import PageKind
from tests.soak.faults import Fault, cases, suffer
from tests.soak.jobs import STILL_S, wait_until
from tests.soak.node import NUM_DEVICES
from tests.soak.world import World

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

LEAVES_S = 15  # of them 1 until the supervisor looks at the primary, and the last checkpoints


def kill_rank(world: World, rng: random.Random) -> None:
    rng.choice(world.primary.ranks).kill()
    _end_of_job(world, rng)


def truncate_page(world: World, rng: random.Random) -> None:
    """He harms his own rank, which writes it, and the gang, which has it mapped."""
    index = rng.randrange(NUM_DEVICES)
    os.truncate(page_path(world.node.lane(index), PageKind.STAGE), 0)
    assert world.primary.ranks[index].wait(timeout=10) == -signal.SIGBUS
    _end_of_job(world, rng)


def _end_of_job(world: World, rng: random.Random) -> None:
    """Slurm ends the job's other rank at once, or the gang notices first."""
    time.sleep(rng.choice([0, 3]))
    world.primary.end()


def stop_rank(world: World, rng: random.Random) -> None:
    """For longer than a gang waits."""
    rank = rng.choice(world.primary.ranks)
    rank.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(rank.pid), "it is stopped")
        gang_gives_its_lane_back(world)
    finally:
        rank.send_signal(signal.SIGCONT)


def stop_rank_briefly(world: World, rng: random.Random) -> None:
    rank = rng.choice(world.primary.ranks)
    rank.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0, STILL_S / 3))
    rank.send_signal(signal.SIGCONT)


def gang_gives_its_lane_back(world: World) -> None:
    code = world.gang.wait_for_end(LEAVES_S)
    assert code == EXIT_TRY_LATER, f"{code}: {world.gang_log()}"
    assert "requeuehold" in world.calls_of_slurm()
    world.check_gang_is_gone()


def restarts_with_the_same_curve(world: World) -> None:
    """Nothing of the job is left; another one goes on from its checkpoint."""
    gang_gives_its_lane_back(world)
    assert not world.node.processes("lend")
    world.check_curve()
    world.start_primary()
    world.check_primary_goes_on()


def primary_goes_on(world: World) -> None:
    world.check_primary_goes_on()
    assert world.primary.is_sharing()


def both_go_on(world: World) -> None:
    primary_goes_on(world)
    world.wait_for_training()


FAULTS = (
    Fault(name="stop_rank_briefly", whom="rank", do=stop_rank_briefly, holds=both_go_on),
    Fault(
        name="kill_rank",
        whom="rank",
        do=kill_rank,
        holds=restarts_with_the_same_curve,
        in_make_test=False,
    ),
    Fault(name="cut_stage", whom="stage", do=truncate_page, holds=restarts_with_the_same_curve),
    Fault(name="stop_rank", whom="rank", do=stop_rank, holds=primary_goes_on, in_make_test=False),
)


@cases(FAULTS)
def test_gang_waits_with_everything_kept(world: World, fault: Fault, seed: int) -> None:
    suffer(world, fault, seed)
