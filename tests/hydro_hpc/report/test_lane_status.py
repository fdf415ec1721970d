from __future__ import annotations

import json
from pathlib import Path

import pytest

from hydro_hpc.cli import main
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, PrimaryState, TrialState, Word
from hydro_hpc.report.lane_status import lane_status, status_line
from hydro_hpc.report.lanes import LanePlace
from tests.hydro_hpc.lanes import make_lane


def place(lane: str) -> LanePlace:
    return LanePlace(node="n1", device=0, path=lane)


def write_stage(lane: str) -> Page:
    stage = Page.map_for_writing(page_path(lane, PageKind.STAGE), PageKind.STAGE)
    stage.set("state", PrimaryState.SHARING)
    stage.set("stage", 1)
    stage.set("step", 120)
    stage.set("guard_word", Word.RUN)
    stage.set("bubble_ns", 5_000_000_000)
    return stage


def test_says_who_lends_and_who_holds(tmp_path: Path) -> None:
    lane = make_lane(tmp_path, tenant_job=9)
    write_stage(lane)
    trial = Page.map_for_writing(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    trial.set("state", TrialState.TRAINING)
    trial.set("num_slots", 16)
    status = lane_status(place(lane))
    assert (status.lender_job, status.tenant_job, status.slots) == (1, 9, 16)
    line = status_line(status)
    assert line.startswith("n1 device 0: lent by job 1; stage 1 sharing, step 120; bubbles 5.0 s")
    assert "tenant job 9 training, 16 slots" in line


def test_a_lane_that_nobody_took_yet_shows_its_primary(tmp_path: Path) -> None:
    """Root makes the tenant's page with the first tenant."""
    lane = make_lane(tmp_path)
    write_stage(lane)
    for kind in (PageKind.TENANT, PageKind.TRIAL):
        Path(page_path(lane, kind)).unlink()
    line = status_line(lane_status(place(lane)))
    assert "stage 1 sharing, step 120; bubbles 5.0 s" in line
    assert line.endswith("no tenant")


def test_says_when_the_guard_holds(tmp_path: Path) -> None:
    lane = make_lane(tmp_path)
    write_stage(lane).set("guard_word", Word.HOLD)
    line = status_line(lane_status(place(lane)))
    assert "the guard holds bubbles shut" in line
    assert "no tenant" in line


def test_says_why_a_lent_lane_does_nothing(tmp_path: Path) -> None:
    line = status_line(lane_status(place(make_lane(tmp_path))))
    assert "lent by job 1; no process has become its writer yet" in line


def test_a_device_without_a_lane_is_not_lent(tmp_path: Path) -> None:
    assert status_line(lane_status(place(str(tmp_path / "gpu0")))) == "n1 device 0: not lent"


def test_command_prints_the_lanes_of_this_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = make_lane(tmp_path, 3)
    write_stage(lane)
    monkeypatch.setenv("HYDRO_PAGE_DIR", str(tmp_path))
    assert main(["status", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["lanes"]
    assert (found["device"], found["lender_job"], found["primary"]) == (3, 1, "sharing")
    assert found["slowdown"] is None
    assert main(["status"]) == 0
    assert "device 3: lent by job 1" in capsys.readouterr().out


def test_command_names_a_cluster_that_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--dir", str(tmp_path)]) == 2
    assert f"no cluster runs in {tmp_path}" in capsys.readouterr().err


def test_says_how_much_memory_a_skipping_tenant_lacks(tmp_path: Path) -> None:
    lane = make_lane(tmp_path, tenant_job=9)
    write_stage(lane)
    trial = Page.map_for_writing(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    trial.set("state", TrialState.SKIPPING)
    trial.set("memory_need_bytes", 520_000_000)
    trial.set("memory_room_bytes", 400_000_000)
    line = status_line(lane_status(place(lane)))
    assert "tenant job 9 skipping, 0 slots" in line
    assert line.endswith("one slot needs 520 MB of memory and 400 MB are left")
