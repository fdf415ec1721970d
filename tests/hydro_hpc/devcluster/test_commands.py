"""`hydro cluster ...` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hydro_hpc.cli import main
from hydro_hpc.devcluster import Cluster
from hydro_hpc.devcluster.commands import status_lines
from hydro_hpc.devcluster.spec import ClusterStatus
from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE

pytestmark = pytest.mark.timeout(60)


def test_status_of_no_cluster_is_down_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "status", "--dir", str(tmp_path / "none")]) == EXIT_FAILED
    assert capsys.readouterr().out.startswith("cluster: down")


def test_impossible_numbers_are_one_sentence_and_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["cluster", "up", "--nodes", "0"]) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith("hydro: a cluster of 0 nodes")
    assert error.count("\n") == 1


def test_status_says_what_is_missing_and_what_is_not_enforced() -> None:
    status = ClusterStatus(
        state="stale",
        directory=Path("/c"),
        slurm_version="22.05.8",
        nodes={"n1": "idle"},
        processes={},
        missing=["munged"],
        not_enforced=["devices: none"],
    )
    assert status_lines(status) == [
        "cluster: stale, Slurm 22.05.8 (/c)",
        "node n1: idle",
        "munged: ended; run: hydro cluster up",
        "not enforced: devices: none",
    ]


@pytest.mark.slurm
def test_status_as_json_is_what_programs_read(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(cluster.spec.directory)
    assert main(["cluster", "status", "--json", "--dir", directory]) == EXIT_DONE
    status = json.loads(capsys.readouterr().out)
    assert status["state"] == "up"
    assert sorted(status["nodes"]) == ["n1", "n2"]
    assert "slurmctld" in status["processes"]


@pytest.mark.slurm
def test_run_gives_the_commands_own_output_and_exit_code(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--dir", str(cluster.spec.directory), "--user", "bob"]
    assert main(["cluster", "run", *where, "--", "sh", "-c", "id -un; exit 3"]) == 3
    assert capfd.readouterr().out == "bob\n"
    assert main(["cluster", "run", *where, "id", "-un"]) == 0  # its own options, without --
    assert capfd.readouterr().out == "bob\n"


def test_run_without_a_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "run"]) == EXIT_USAGE
    assert "needs a command" in capsys.readouterr().err
