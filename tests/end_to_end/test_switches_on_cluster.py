"""`hydro pause` on a real cluster, of a job of two steps."""

from __future__ import annotations

import sys
from typing import Final

import pytest

from hydro_hpc.page_layout import PageKind, Word
from tests.end_to_end.road import LENDING, SMALL, Road, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed, pytest.mark.timeout(300)]

HYDRO: Final = f"{sys.prefix}/bin/hydro"
TWO_STEPS = """#!/bin/bash
srun python {train} --steps=25 {small} --loss-file=first.jsonl
srun python {train} --steps=1000000 {small} --loss-file=second.jsonl
"""


def test_an_owners_pause_holds_for_the_next_step_of_the_job(road: Road) -> None:
    script = TWO_STEPS.format(train=road.put_training(), small=SMALL)
    primary = road.submit("alice", script, *LENDING)
    wait_until(lambda: road.steps("first.jsonl"), lambda: f"a step: {road.outputs('alice')}")
    first = road.pids(PageKind.STAGE)
    paused = road.cluster.run([HYDRO, "pause", str(primary)], user="alice", timeout_s=60)
    assert paused.stdout.count("1 device of job") == 2, paused.stderr
    wait_until(lambda: road.steps("second.jsonl"), lambda: f"a step: {road.outputs('alice')}")
    assert not set(first) & set(road.pids(PageKind.STAGE))
    pages = [road.page(node, PageKind.STAGE) for node in range(2)]
    assert [page.get("owner_word") for page in pages if page is not None] == [Word.HOLD] * 2
