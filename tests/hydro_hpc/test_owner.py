"""An owner's switch, on this node's lanes and as a command; on a cluster: tests/end_to_end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc.cli import main
from hydro_hpc.owner_word import lanes_below, set_owner_word
from hydro_hpc.owner_word import main as switch
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.report.lane_status import lane_status, status_line
from hydro_hpc.report.lanes import LanePlace
from tests.hydro_hpc.lanes import make_lane, set_site_word, stage_page


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


def test_another_job_and_a_lane_that_is_gone_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = make_lane(tmp_path)
    monkeypatch.setenv("HYDRO_PAGE_DIR", str(tmp_path))
    assert main(["pause", "2", "--here"]) == 75
    assert "job 2 lends nothing on" in capsys.readouterr().err
    set_site_word(lane, Word.GONE)
    assert main(["pause", "1", "--here"]) == 75
    assert owner_word(lane) == 0


def test_a_pause_outlives_the_training_process_and_may_come_before_it(tmp_path: Path) -> None:
    """A job's next step maps the page anew, and its publisher sets RUN on a page without a word."""
    lane = make_lane(tmp_path)
    assert set_owner_word([lane], 1, Word.HOLD) == 1
    for _ in range(2):
        stage = stage_page(lane)
        assert (stage.get("owner_word"), stage.get("guard_word")) == (Word.HOLD, 0)
        stage.set("guard_word", Word.RUN)
        stage.close()
    assert set_owner_word([lane], 1, Word.RUN) == 1
    assert owner_word(lane) == Word.RUN


def test_what_a_node_runs_for_a_pause_imports_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of `hydro` takes 0.2 s to import, and a pause has 0.1 s on its node."""
    make_lane(tmp_path)
    monkeypatch.setenv("HYDRO_PAGE_DIR", str(tmp_path))
    assert switch(["1", "pause"]) == 0
    assert capsys.readouterr().out == f"{os.uname().nodename}: 1 device of job 1 paused\n"
    code = "import sys, hydro_hpc.owner_word; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("hydro_hpc.")}
    assert ours == {
        f"hydro_hpc.{name}" for name in ("owner_word", "errors", "identity", "page", "page_layout")
    }
    assert not {"argparse", "subprocess", "json", "socket"} & set(done.stdout.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_may_not(world_readable_dir: Path) -> None:
    lane = make_lane(world_readable_dir)
    stage_page(lane).set("owner_word", Word.RUN)
    lanes = lanes_below(str(world_readable_dir))
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            set_owner_word(lanes, 1, Word.HOLD)
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
