"""Faults of the node: sharing stops there, the primary goes on."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_TRY_LATER
from hydro_hpc.page import page_path
from hydro_hpc.page_layout import SIZES, PageKind
from tests.soak.faults import Fault, cases, suffer
from tests.soak.node import FREE_LANE, IS_ROOT, TENANT_LANE
from tests.soak.world import World

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

KILLS = 6


def fill_tmpfs(world: World, rng: random.Random) -> None:
    """Who is there goes on; nobody new is let in, until there is room again."""
    filler = world.node.pages / "filler"
    left = rng.choice([0, 1, 16])  # pages of memory
    with _stranger(world) as who:
        filler.touch()
        facts = os.statvfs(world.node.pages)
        filler.write_bytes(bytes((facts.f_bavail - left) * facts.f_frsize))
        try:
            world.check_primary_goes_on()
            world.wait_for_training()
            refused = world.node.run("take", "stranger", *who)
            assert "HYDRO_LANES=0" not in refused
            assert "No space left" in refused
            assert world.node.lane_files(FREE_LANE) == {"site", "stage"}
        finally:
            filler.unlink()
        assert "HYDRO_LANES=0\n" in world.node.run("take", "stranger", *who)
    world.node.run("leave", "stranger", *who)
    assert world.node.lane_files(FREE_LANE) == {"site", "stage"}


@contextlib.contextmanager
def _stranger(world: World) -> Iterator[list[str]]:
    """Another tenant's job, on the device that the gang does not have: how its plugin names it."""
    node = world.node
    job = node.new_job("tenant")
    process = node.bob.start(["sleep", "100"], log=node.bob.home / "stranger.log")
    try:
        yield ["--job", str(job), "--uid", str(node.bob.uid), "--pid", str(process.pid)]
    finally:
        process.kill()
        process.wait()


def truncate_site(world: World, rng: random.Random) -> None:
    """By root, its owner; put back afterwards."""
    path = Path(_page(world, PageKind.SITE))
    content = path.read_bytes()
    os.truncate(path, rng.choice([0, 100, 4095]))
    try:
        _lane_is_given_back(world)
    finally:
        with path.open("r+b") as file:
            file.write(content)


def replace_site(world: World, rng: random.Random) -> None:
    with _replaced(world, PageKind.SITE, rng):
        _lane_is_given_back(world)


def replace_stage(world: World, rng: random.Random) -> None:
    """The primary writes on into the file that it has; no gang may go by it any more."""
    with _replaced(world, PageKind.STAGE, rng):
        _lane_is_given_back(world)


def replace_tenant(world: World, rng: random.Random) -> None:
    """Root forgets who has the lane; he goes on, and what he leaves is his successor's to clear."""
    with _replaced(world, PageKind.TENANT, rng):
        world.check_primary_goes_on()
        world.wait_for_training()


@contextlib.contextmanager
def _replaced(world: World, kind: PageKind, rng: random.Random) -> Iterator[None]:
    """Another file is in a page's place: an empty one, or one of noise."""
    path = Path(_page(world, kind))
    aside = world.node.pages / "aside"
    fresh = world.node.pages / "fresh"
    fresh.write_bytes(rng.choice([bytes(SIZES[kind]), rng.randbytes(SIZES[kind]), b""]))
    os.link(path, aside)
    fresh.rename(path)
    try:
        yield
    finally:
        if path.exists():
            aside.rename(path)
        else:  # its gang has left
            aside.unlink()


def _lane_is_given_back(world: World) -> None:
    world.check_primary_goes_on()
    assert world.gang.wait_for_end() == EXIT_TRY_LATER, world.gang_log()
    assert "requeuehold" in world.calls_of_slurm()
    world.check_gang_is_gone()


def _page(world: World, kind: PageKind) -> str:
    return page_path(world.node.lane(TENANT_LANE), kind)


def kill_plugin(world: World, rng: random.Random) -> None:
    """Root's program is killed in the middle, in all that it does for those who come and go."""
    ours = ["--job", str(world.primary.job), "--uid", str(world.node.alice.uid)]
    with _stranger(world) as who:
        theirs = {"SLURM_JOB_ID": who[1], "SLURM_JOB_PARTITION": "bubble"}
        for _ in range(KILLS):
            _kill_in_the_middle(world, rng, "lend", "lender", *ours)
            _kill_in_the_middle(world, rng, "prolog", "stranger", **theirs)
            world.node.run("prolog", "stranger", environment=theirs)
            _kill_in_the_middle(world, rng, "take", "stranger", *who)
        assert "HYDRO_LANES=0\n" in world.node.run("take", "stranger", *who)
    for _ in range(KILLS):
        _kill_in_the_middle(world, rng, "leave", "stranger", *who)
        _kill_in_the_middle(world, rng, "epilog", "stranger", **theirs)
    world.node.run("leave", "stranger", *who)
    world.node.run("epilog", "stranger", environment=theirs)
    assert world.node.lane_files(FREE_LANE) == {"site", "stage"}
    world.wait_for_training()


def _kill_in_the_middle(
    world: World, rng: random.Random, verb: str, role: str, *options: str, **environment: str
) -> None:
    process = world.node.start(verb, role, *options, environment=environment)
    time.sleep(rng.uniform(0.02, 0.15))
    process.kill()
    process.communicate()


def primary_goes_on(world: World) -> None:
    world.check_primary_goes_on()
    assert world.primary.is_sharing()


FAULTS = (
    Fault(name="replace_tenant", whom="tenant", do=replace_tenant, holds=primary_goes_on),
    Fault(name="truncate_site", whom="site", do=truncate_site, holds=primary_goes_on),
    Fault(
        name="replace_site", whom="site", do=replace_site, holds=primary_goes_on, in_make_test=False
    ),
    Fault(
        name="replace_stage",
        whom="stage",
        do=replace_stage,
        holds=primary_goes_on,
        in_make_test=False,
    ),
    Fault(name="kill_plugin", whom="plugin", do=kill_plugin, holds=primary_goes_on),
    Fault(
        name="fill_tmpfs",
        whom="tmpfs",
        do=fill_tmpfs,
        holds=primary_goes_on,
        needs_root=True,  # to mount one
    ),
)


@cases(FAULTS)
def test_sharing_stops_there_and_the_primary_goes_on(world: World, fault: Fault, seed: int) -> None:
    if fault.needs_root and not IS_ROOT:
        pytest.skip("a tmpfs cannot be mounted by this user")
    suffer(world, fault, seed)
