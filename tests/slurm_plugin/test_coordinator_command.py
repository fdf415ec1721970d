"""The coordinator's command: one at a time, and what is wrong in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run_command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "slurm_plugin.coordinator", *words]
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/nowhere", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )


def test_the_command_without_slurm_says_so_in_one_line(tmp_path: Path) -> None:
    done = run_command("--once", "--lock", str(tmp_path / "lock"))
    assert done.returncode == 1
    assert done.stderr == "hydro: sinfo is not installed here; install Slurm's client\n"


def test_a_second_coordinator_is_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    path = tmp_path / "lock"
    with FileLock(path):
        done = run_command("--once", "--lock", str(path))
    assert done.returncode == 1
    assert done.stderr == f"hydro: another coordinator runs and holds {path}; stop it first\n"


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "dir" / "lock"
    path.parent.parent.write_text("a file")
    done = run_command("--once", "--lock", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"hydro: the lock file {path} cannot be made")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("period", ["0", "-1", "nan", "x", "99999"])
def test_a_period_out_of_range_is_a_usage_error(period: str, tmp_path: Path) -> None:
    done = run_command(f"--period={period}", "--lock", str(tmp_path / "lock"))
    assert done.returncode == 2
    assert "--period" in done.stderr
