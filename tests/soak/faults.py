"""A fault as a value, and how it is brought upon a healthy world: at a seeded random moment."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pytest

from tests.soak.world import World

IS_SOAK: Final = "HYDRO_SOAK_REPEATS" in os.environ
REPEATS: Final = int(os.environ.get("HYDRO_SOAK_REPEATS", "1"))
SEED: Final = int(os.environ.get("HYDRO_SOAK_SEED", "0")) or random.SystemRandom().randrange(
    1, 10**6
)
MOMENT_S: Final = 0.5  # the fault comes at some time within that


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`do` does it to the real processes; `holds` waits for and checks what must hold after it."""

    name: str
    whom: Literal[
        "worker",
        "search",
        "supervisor",
        "lease",
        "trial",
        "site",
        "stage",
        "tenant",
        "tmpfs",
        "plugin",
        "rank",
    ]
    do: Callable[[World, random.Random], None]
    holds: Callable[[World], None]
    needs_root: bool = False
    in_make_test: bool = True  # otherwise only where faults are repeated: others are much like it


def cases(faults: Sequence[Fault]) -> pytest.MarkDecorator:
    """Every fault, as often as it is to be repeated; each time with a seed of its own."""
    return pytest.mark.parametrize(
        ("fault", "seed"),
        [
            pytest.param(fault, SEED + repeat, id=f"{fault.name}-{repeat}")
            for repeat in range(REPEATS)
            for fault in faults
            if fault.in_make_test or IS_SOAK
        ],
    )


def suffer(world: World, fault: Fault, seed: int) -> None:
    """Brings one fault upon the world, and checks what must hold after any."""
    print(f"again: HYDRO_SOAK_SEED={seed} HYDRO_SOAK_REPEATS=1 pytest tests/soak -k {fault.name}")
    try:
        _suffer(world, fault, random.Random(f"{seed} {fault.name}"))
    except BaseException:
        world.end_all()  # the next fault is to come upon a healthy world
        raise


def _suffer(world: World, fault: Fault, rng: random.Random) -> None:
    world.heal()
    world.calls_of_slurm()
    before = world.results()
    time.sleep(rng.uniform(0, MOMENT_S))
    fault.do(world, rng)
    fault.holds(world)
    world.check_results(before)
    world.check_curve()
    world.check_steps()
