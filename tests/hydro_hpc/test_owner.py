"""An owner's switch, on this node's lanes and as a command; on a cluster: tests/end_to_end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc.cli import main
from hydro_hpc.owner import set_owner_word
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.report.lane_status import lane_status, status_line
from hydro_hpc.report.lanes import LanePlace, lanes_below
from tests.hydro_hpc.lanes import make_lane, stage_page


@pytest.fixture
def world_readable_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other users
        os.chmod(name, 0o755)
        yield Path(name)


def owner_word(lane: str) -> int:
    return Page.read_copy(page_path(lane, PageKind.STAGE), PageKind.STAGE).get("owner_word")


def test_pause_and_resume_reach_every_lane_of_the_job_and_change_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lanes = [make_lane(tmp_path, index) for index in range(2)]
    for lane in lanes:
        stage = stage_page(lane)
        stage.set("owner_word", Word.RUN)
        stage.set("step", 120)
    monkeypatch.setenv("HYDRO_PAGE_DIR", str(tmp_path))
    assert main(["pause", "1", "--here"]) == 0
    assert [owner_word(lane) for lane in lanes] == [Word.HOLD] * 2
    assert capsys.readouterr().out.endswith(": 2 devices of job 1 paused\n")
    status = lane_status(LanePlace(node="n1", device=0, path=lanes[0]))
    assert status.owner == "hold"
    assert "paused by its owner" in status_line(status)
    assert main(["resume", "1", "--here"]) == 0
    assert [owner_word(lane) for lane in lanes] == [Word.RUN] * 2
    stage = Page.read_copy(page_path(lanes[0], PageKind.STAGE), PageKind.STAGE)
    assert (stage.get("step"), stage.writer_problem()) == (120, "")


def test_another_job_and_a_lane_without_training_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = make_lane(tmp_path)
    monkeypatch.setenv("HYDRO_PAGE_DIR", str(tmp_path))
    for job in ("1", "2"):  # job 1 has no writer yet
        assert main(["pause", job, "--here"]) == 75
        assert f"job {job} lends nothing on" in capsys.readouterr().err
    assert owner_word(lane) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_may_not(world_readable_dir: Path) -> None:
    lane = make_lane(world_readable_dir)
    stage_page(lane).set("owner_word", Word.RUN)
    places = lanes_below(world_readable_dir, node="n1")
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            set_owner_word(places, 1, Word.HOLD)
        except Exception as error:
            os._exit(10 if "cannot be switched by you" in str(error) else 11)
        os._exit(12)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    assert owner_word(lane) == Word.RUN


def test_no_slurm_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["pause", "7"]) == 1
    assert capsys.readouterr().err == (
        "hydro: squeue is not on your PATH; run this where Slurm is\n"
    )
