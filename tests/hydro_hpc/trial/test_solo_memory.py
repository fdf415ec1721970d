"""`hydro-trial` as a real process whose lender's page says that memory shrinks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_DONE, EXIT_TRY_LATER
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, TrialState
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.trial.solo import PlayedPrimary, finish, read_results, start, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

MB = 1_000_000


def trial_page(lane: str) -> Page:
    return Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)


def test_bubbles_are_skipped_while_no_slot_fits_and_used_again_after(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    study = write_study(tmp_path, trials=5, epochs=150)
    process = start(study, lane)
    page = trial_page(lane)
    wait_until(lambda: page.get("num_samples") > 0)
    primary.page.set("memory_peak_bytes", 1)
    primary.page.set("memory_limit_bytes", int(page.get("memory_need_bytes") * 1.02))
    wait_until(lambda: page.get("state") == TrialState.SKIPPING)
    assert page.get("num_slots") == 0
    trained = page.get("num_samples")
    assert len(list((tmp_path / "tiny.hydro/checkpoints").glob("*.pt"))) >= 4
    assert page.get("memory_need_bytes") * 1.1 > page.get("memory_room_bytes")
    assert page.get("num_samples") == trained
    primary.page.set("memory_limit_bytes", 1 << 40)
    code, errors = finish(process)
    assert (code, errors) == (EXIT_DONE, "")
    results = read_results(study)
    assert (results.completed, results.failed) == (5, 0)
    assert page.get("trials_done") == 5


def test_gang_that_arrives_where_no_slot_fits_goes_elsewhere(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    primary.page.set("memory_limit_bytes", 1000 * MB)
    primary.page.set("memory_peak_bytes", 900 * MB)
    code, errors = finish(start(write_study(tmp_path), lane))
    assert code == EXIT_TRY_LATER
    assert "too little memory" in errors
    assert "and 100 MB are left" in errors


def test_gate_that_stays_shut_keeps_no_memory_from_the_primary(
    tmp_path: Path, lane: str, primary: PlayedPrimary
) -> None:
    process = start(write_study(tmp_path, epochs=10_000), lane)
    page = trial_page(lane)
    wait_until(lambda: page.get("num_samples") > 0)
    primary.is_shut.set()
    primary.page.set("memory_limit_bytes", int(page.get("memory_need_bytes") * 1.02))
    wait_until(lambda: page.get("state") == TrialState.SKIPPING)
    process.terminate()
    finish(process)
