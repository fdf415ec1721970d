"""DeepSpeed's two pipeline engines, the oldest release that imports beside this torch, replicas."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hydro_hpc.page_layout import RecordKind
from tests.engines.pypi_release import NotFetchedError, fetch_release
from tests.engines.runs import Run, check_is_shared, check_opens_windows, run_script
from tests.hydro_hpc.ranks import run_ranks
from tests.hydro_hpc.warm_python import WarmPython

pytestmark = [pytest.mark.deepspeed, pytest.mark.processes]

# Beside torch 2.13: 0.14.0 and older need intel_extension_for_pytorch on a CPU, 0.14.1 to 0.14.3
# import a function that torch has removed.
OLDEST = "0.14.4"
STEPS = 20
WORK_MS = 4


@pytest.fixture(scope="module", autouse=True)
def _deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")


def run_engines(
    names: str,
    work_ms: int,
    *,
    page_dir: Path | None,
    ranks: int = 2,
    path: str = "",
    run: Callable[..., list[str]] = run_ranks,
) -> Run:
    """Runs the engines one after the other; `path` goes first on the import path."""
    paths = [path, os.environ.get("PYTHONPATH", "")]
    return run_script(
        "deepspeed_engine",
        *(names, STEPS, work_ms),
        page_dir=page_dir,
        ranks=ranks,
        environment={
            "DS_ACCELERATOR": "cpu",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        },
        run=run,
    )


@pytest.fixture(scope="module")
def unhooked(warm: WarmPython) -> Run:
    return run_engines("pipeline,dualpipev", 0, page_dir=None, run=warm.run_ranks)


def check_stages(run: Run) -> None:
    """Each page has the stage that the engine knows, which with replicas is not the rank."""
    for page, report in zip(run.pages, run.reports, strict=True):
        assert page.get("stage") == report["stage"]
        assert page.get("num_stages") == 2


def microbatches(run: Run, rank: int) -> set[int]:
    return {record.microbatch for record in run.records(rank, RecordKind.WAIT)}


def test_pipeline_engine_is_shared_and_labels_its_waits(unhooked: Run, tmp_path: Path) -> None:
    run = run_engines("pipeline", WORK_MS, page_dir=tmp_path)
    assert run.losses("pipeline") == unhooked.losses("pipeline")
    check_is_shared(run, steps=STEPS - 1)
    check_stages(run)
    for rank in range(2):
        check_opens_windows(run, rank)
        assert microbatches(run, rank) >= {0, -1}


def test_dualpipev_engine_is_shared(unhooked: Run, warm: WarmPython, tmp_path: Path) -> None:
    """It waits for several microbatches at once, when it commits: no wait has one of its own."""
    run = run_engines("dualpipev", WORK_MS, page_dir=tmp_path, run=warm.run_ranks)
    assert run.losses("dualpipev") == unhooked.losses("dualpipev")
    check_is_shared(run, steps=STEPS - 1)
    check_stages(run)
    for rank in range(2):
        check_opens_windows(run, rank)


def test_replicas_of_a_pipeline_are_shared(unhooked: Run, warm: WarmPython, tmp_path: Path) -> None:
    """They train on the same data, so they lose what one pipeline does, bit by bit."""
    run = run_engines("pipeline", WORK_MS, page_dir=tmp_path, ranks=4, run=warm.run_ranks)
    assert run.losses("pipeline") == 2 * unhooked.losses("pipeline")
    check_is_shared(run, steps=STEPS - 1)
    check_stages(run)
    assert sorted(page.get("stage") for page in run.pages) == [0, 0, 1, 1]
    for rank in range(4):
        check_opens_windows(run, rank)


def test_oldest_release_that_imports_is_shared(
    warm: WarmPython, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    assert pytestconfig.cache is not None
    try:
        folder = fetch_release("deepspeed", OLDEST, into=pytestconfig.cache.mkdir("deepspeed"))
    except NotFetchedError as error:
        pytest.skip(f"DeepSpeed {OLDEST} cannot be had from PyPI: {error}")
    unhooked = run_engines("pipeline", 0, page_dir=None, path=str(folder), run=warm.run_ranks)
    run = run_engines("pipeline", WORK_MS, page_dir=tmp_path, path=str(folder))
    for report in unhooked.reports + run.reports:
        assert report["deepspeed"] == OLDEST
    assert run.losses("pipeline") == unhooked.losses("pipeline")
    check_is_shared(run, steps=STEPS - 1)
    check_stages(run)
    for rank in range(2):
        check_opens_windows(run, rank)
