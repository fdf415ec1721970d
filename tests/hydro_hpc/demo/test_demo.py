"""`hydro demo`, the real command: to its end, and ended in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.devcluster.cgroups import CGROUP_ROOT

pytestmark = pytest.mark.slurm

DEMO_S = 900  # on a machine that does other things too


def demo(out: Path, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hydro_hpc.cli", "demo"]
    return subprocess.Popen(
        [*command, "--out", str(out), "--dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def is_gone(directory: Path) -> bool:
    name = ClusterSpec(directory=directory).cgroup_name
    return not directory.exists() and not any(p.is_dir() for p in CGROUP_ROOT.rglob(name))


@pytest.mark.timeout(DEMO_S)
def test_walks_the_whole_road(tmp_path: Path, cluster_directory: Path) -> None:
    with demo(tmp_path, cluster_directory) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    summary = json.loads((tmp_path / "summary.json").read_text())
    trials = summary["trials"]
    assert trials["completed"] >= 32
    assert trials["best"]["value"] >= 0.95
    assert trials["best"]["rerun_value"] == trials["best"]["value"]
    assert summary["gang"]["ranks"] == 2
    assert summary["primary"]["pairs"] >= 3
    assert {entry["stage"] for entry in summary["bubbles"]} == {0, 1}
    assert all(entry["harvest_s"] > 0 for entry in summary["bubbles"])
    spans = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {span["pid"] for span in spans} == {0, 1}
    assert (tmp_path / "timeline.png").exists()
    assert (tmp_path / "logs/training.out").exists()
    assert "the same value" in output
    assert is_gone(cluster_directory)


def test_an_interrupt_takes_the_cluster_down(tmp_path: Path, cluster_directory: Path) -> None:
    with demo(tmp_path, cluster_directory) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("study: job"):
                break
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "hydro: the demo was interrupted; its cluster is stopped\n"
    assert is_gone(cluster_directory)


def test_a_training_job_that_ends_too_early_is_an_error(
    tmp_path: Path, cluster_directory: Path
) -> None:
    with demo(tmp_path, cluster_directory) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"training job: job (\d+)", line):
                break
        cluster = Cluster(ClusterSpec(directory=cluster_directory))
        assert cluster.on_node("login", ["scancel", found[1]]).returncode == 0
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert f"job {found[1]} of alice ended too early: CANCELLED" in errors
    assert (tmp_path / "logs/slurmctld.log").exists()
    assert is_gone(cluster_directory)


def test_a_second_demo_is_refused(tmp_path: Path, cluster_directory: Path) -> None:
    with demo(tmp_path / "a", cluster_directory) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with demo(tmp_path / "b", cluster_directory) as second:
            _, errors = second.communicate(timeout=60)
        first.terminate()
        first.communicate(timeout=60)
    assert second.returncode == 2
    assert "another demo runs" in errors
    assert first.returncode == 130
    assert is_gone(cluster_directory)
