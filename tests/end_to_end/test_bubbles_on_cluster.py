"""The whole road on a real cluster: a DeepSpeed job lends, studies of others run in its bubbles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.road import GANG, LENDING, SMALL, TRAIN, Road, wait_until
from tests.examples.gpt_example import write_small_study
from tests.hydro_hpc.warm_python import WarmPython

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed, pytest.mark.timeout(300)]


def test_study_beside_its_own_job_starts_and_ends_with_it(road: Road) -> None:
    study = road.study("alice")
    options = (f"--hydro-bubble={study}", *LENDING[1:])
    primary = road.train(*options)
    journal = study.parent / "tiny.hydro/journal.log"
    wait_until(
        lambda: journal.exists() and journal.read_text().count('"values":[') == 6,
        lambda: f"6 trials complete: {road.outputs('alice')}",
    )
    assert road.jobs.state(primary) == "RUNNING"


def test_a_narrow_gpt_is_tuned_in_the_bubbles_of_the_gpt_that_it_is_for(road: Road) -> None:
    home = road.cluster.home("alice")
    study = write_small_study(home)
    for path in (study, home / "gpt.py"):
        shutil.chown(path, user=home.stat().st_uid)
    road.train(f"--hydro-bubble={study}", *LENDING[1:])
    journal = home / "gpt.hydro/journal.log"
    wait_until(
        lambda: journal.exists() and journal.read_text().count('"values":[') == 2,
        lambda: f"both trials complete: {road.outputs('alice')}",
    )
    done = road.cluster.run(["hydro", "transfer", str(study)], user="alice", cwd=home, timeout_s=60)
    assert done.returncode == 0, done.stderr
    transferred = json.loads((home / "gpt.hydro/transfer/deepspeed.json").read_text())
    assert transferred["train_batch_size"] == 16


def test_opted_in_job_that_never_pipelines_sends_the_gang_away(road: Road) -> None:
    script = """#!/bin/bash
srun python -c "
import torch, time, torch.distributed as dist, os
os.environ.update(RANK=os.environ['SLURM_PROCID'], WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
os.environ['MASTER_PORT'] = str(20000 + int(os.environ['SLURM_JOB_ID']) % 20000)
dist.init_process_group('gloo')
weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([weight], lr=0.1)
while True:
    time.sleep(0.02)
    weight.grad = torch.zeros(1)
    optimizer.step()
"
"""
    road.submit("alice", script, *LENDING)
    road.study("bob")
    gang = road.submit("bob", GANG, "--bubbles=2")
    wait_until(
        lambda: road.jobs.fields(gang).get("Comment", "").startswith("hydro:failed="),
        lambda: f"the gang learns why: {road.jobs.fields(gang)} {road.outputs('bob')}",
    )
    assert "no-bubbles" in road.jobs.fields(gang)["Comment"]
    assert "hydro: nothing is lent: this job never waits 2 ms" in road.outputs("alice")


def test_losses_of_the_primary_are_bit_identical_with_and_without_trials(
    road: Road, warm: WarmPython, tmp_path: Path
) -> None:
    alone = train_here(warm, tmp_path, steps=40)
    primary = road.train(steps=120)
    road.study("bob", trials=50, epochs=1000)
    road.submit("bob", GANG, "--bubbles=2")
    wait_until(
        lambda: all(road.samples()) or road.jobs.state(primary) != "RUNNING", "both workers train"
    )
    wait_until(lambda: len(road.steps()) >= 40, "40 steps beside trials")
    beside = road.steps()[:40]
    assert [step["loss"] for step in beside] == [step["loss"] for step in alone]


def train_here(python: WarmPython, directory: Path, *, steps: int) -> list[dict[str, float]]:
    """Trains the same job without Slurm and without us; returns its steps."""
    losses = directory / "alone.jsonl"
    arguments = (f"--steps={steps}", *SMALL.split(), f"--loss-file={losses}")
    python.run_ranks(str(TRAIN), *arguments, page_dir=None)
    return [json.loads(line) for line in losses.read_text().splitlines()]
