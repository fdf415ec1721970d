"""Pipelines written by hand on torch.distributed; a replay of how Megatron-Core communicates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.runs import Run, check_is_shared, check_opens_windows, run_script
from tests.hydro_hpc.warm_python import WarmPython

pytestmark = pytest.mark.processes

WAYS = ("blocking", "work", "batch", "collective", "functional")
STEPS = 24
WORK_MS = 5


@pytest.fixture(scope="module")
def unhooked(warm: WarmPython) -> Run:
    return run_script("plain", ",".join(WAYS), STEPS, 0, 2, page_dir=None, run=warm.run_ranks)


def check_waits_add_up(run: Run) -> None:
    """The page counts what each rank was blocked for, and no more than its calls and the short
    gaps between them took.
    """
    for page, report in zip(run.pages, run.reports, strict=True):
        waits = report["waits"]
        assert 0.9 * waits["blocked_ns"] <= page.get("wait_ns") <= waits["elapsed_ns"]


@pytest.mark.parametrize("way", WAYS)
def test_script_without_an_engine_is_shared_by_its_optimizers_steps(
    way: str, unhooked: Run, warm: WarmPython, tmp_path: Path
) -> None:
    arguments = (way, STEPS, WORK_MS, 2)
    run = run_script("plain", *arguments, page_dir=tmp_path, run=warm.run_ranks)
    assert run.losses(way) == unhooked.losses(way)
    assert len(run.losses(way)[1]) == STEPS * 2
    check_is_shared(run, steps=STEPS - 1)
    check_waits_add_up(run)
    for rank in range(2):
        check_opens_windows(run, rank)
        assert run.pages[rank].get("stage") == rank


def test_replay_of_megatron_cores_communication_is_shared(warm: WarmPython, tmp_path: Path) -> None:
    """A replay of its pattern, not Megatron-Core. In a Python of its own, as the user starts it."""
    unhooked = run_script("megatron_replay", STEPS, 0, page_dir=None, run=warm.run_ranks)
    run = run_script("megatron_replay", STEPS, WORK_MS, page_dir=tmp_path)
    assert run.losses("replay") == unhooked.losses("replay")
    check_is_shared(run, steps=STEPS - 1)
    check_waits_add_up(run)
    for rank in range(2):
        check_opens_windows(run, rank)
