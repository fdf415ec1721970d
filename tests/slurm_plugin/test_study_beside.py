"""The command that runs the study of `sbatch --hydro-bubble=STUDY`, and why it is not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm_plugin import study_beside

JOB = {
    "HYDRO_LANES": "0,1",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_JOB_ID": "9",
    "SLURM_SUBMIT_DIR": "/home/a",
}


@pytest.mark.parametrize(
    ("study", "path"), [("study.py", "/home/a/study.py"), ("/x/study.py", "/x/study.py")]
)
def test_one_task_per_lane_on_every_node(study: str, path: str) -> None:
    command = study_beside.srun_command(study, JOB)
    assert command[0] == "srun"
    assert command[-2:] == ["hydro-trial", path]
    assert {"--overlap", "--mpi=pmix", "--nodes=3", "--ntasks=6", "--ntasks-per-node=2"} <= set(
        command
    )


def test_its_output_lies_where_the_job_was_submitted() -> None:
    assert study_beside.log_path(JOB) == "/home/a/hydro-trial-9.log"


def test_without_lanes_it_is_not_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRO_LANES", "")
    assert study_beside.main(["start-study", "study.py"]) == 1
    assert capsys.readouterr().err == (
        "hydro: no device of this job is lent, so study.py is not started\n"
    )


def test_without_a_place_for_its_output_it_is_not_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in (JOB | {"SLURM_SUBMIT_DIR": str(tmp_path / "none")}).items():
        monkeypatch.setenv(name, value)
    assert study_beside.main(["start-study", "study.py"]) == 1
    assert "hydro-trial-9.log cannot be written (No such file" in capsys.readouterr().err
