"""`hydro pause` and `hydro resume` on a real cluster: an admin's suspend, an owner's pause."""

from __future__ import annotations

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from hydro_hpc.identity import is_stopped
from hydro_hpc.page_layout import PageKind, Word
from tests.end_to_end.test_bubbles_on_cluster import (
    GANG,
    LENDING,
    SMALL,
    TRAIN,
    Road,
    processes_of,
    road,
    wait_until,
)

__all__ = ["road"]  # the fixture

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed, pytest.mark.timeout(300)]

LIMIT_MS: Final = 100
HYDRO: Final = f"{sys.prefix}/bin/hydro"
TRIALS: Final = 8


def test_an_admins_pause_suspends_the_gang_on_a_job_as_a_whole_and_loses_nothing(
    road: Road,
) -> None:
    primary = road.train()
    study = road.study("bob", trials=TRIALS, epochs=150)
    gang = road.submit("bob", GANG, "--bubbles=2")
    wait_until(lambda: all(road.samples()), lambda: f"both workers train: {road.outputs('bob')}")
    refused = road.cluster.run([HYDRO, "pause", str(primary)], user="bob", timeout_s=60)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"hydro: scontrol suspend {gang} failed: "), refused.stderr

    pids = [*processes_of("hydro-trial"), *processes_of("hydro_hpc.trial")]
    assert len(pids) >= 5  # two supervisors, two workers, the search
    with ThreadPoolExecutor() as beside:
        pausing = beside.submit(
            road.cluster.on_node, "login", [HYDRO, "pause", str(primary)], timeout_s=60
        )
        took_ms = ms_from_first_to_last_stop(pids)
        paused = pausing.result()
    expected = f"on the devices of job {primary}, suspended: gang {gang}\n"
    assert (paused.stdout, paused.stderr) == (expected, "")
    print(f"suspend: {took_ms:.0f} ms from the first process that is stopped to the last")
    assert took_ms < LIMIT_MS
    road.jobs.wait_state(gang, "SUSPENDED")

    before, steps = road.samples(), len(road.steps())
    wait_until(lambda: len(road.steps()) > steps + 20, "the primary goes on")
    assert road.samples() == before
    resumed = road.cluster.on_node("login", [HYDRO, "resume", str(primary)], timeout_s=60)
    assert resumed.stdout == f"on the devices of job {primary}, resumed: gang {gang}\n"
    road.wait_for_end(gang, "bob")
    results = road.results("bob")
    assert (results.completed, results.failed, results.in_work) == (TRIALS, 0, 0)
    assert (study.parent / "tiny.hydro/journal.log").read_text().count('"values":[') == TRIALS
    assert road.jobs.state(primary) == "RUNNING"


def ms_from_first_to_last_stop(pids: list[int]) -> float:
    """Returns how long after the suspend had reached them the last of these processes ran on."""
    give_up_s = time.monotonic() + 30
    first_s = 0.0
    while not all(map(is_stopped, pids)):
        if not first_s and any(map(is_stopped, pids)):
            first_s = time.monotonic()
        assert time.monotonic() < give_up_s, (
            f"not stopped: {[p for p in pids if not is_stopped(p)]}"
        )
        time.sleep(0.001)
    return (time.monotonic() - first_s) * 1e3 if first_s else 0.0


TWO_STEPS = """#!/bin/bash
srun python {train} --steps=25 {small} --loss-file=first.jsonl
srun python {train} --steps=1000000 {small} --loss-file=second.jsonl
"""


def test_an_owners_pause_holds_for_the_next_step_of_the_job(road: Road) -> None:
    train = road.cluster.home("alice") / "train.py"
    shutil.copy(TRAIN, train)
    primary = road.submit("alice", TWO_STEPS.format(train=train, small=SMALL), *LENDING)
    wait_until(lambda: road.steps("first.jsonl"), lambda: f"a step: {road.outputs('alice')}")
    first = road.pids(PageKind.STAGE)
    paused = road.cluster.run([HYDRO, "pause", str(primary)], user="alice", timeout_s=60)
    assert paused.stdout.count("1 device of job") == 2, paused.stderr
    wait_until(lambda: road.steps("second.jsonl"), lambda: f"a step: {road.outputs('alice')}")
    assert not set(first) & set(road.pids(PageKind.STAGE))
    pages = [road.page(node, PageKind.STAGE) for node in range(2)]
    assert [page.get("owner_word") for page in pages if page is not None] == [Word.HOLD] * 2
