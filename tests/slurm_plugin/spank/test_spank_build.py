"""The compiled plugin: what Slurm finds in it, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import slurm_plugin

SOURCES = Path(slurm_plugin.__file__).parent / "spank"
MAX_LINES = 500  # so that a site can read it before it runs it as root

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/usr/include/slurm/spank.h").exists(),
    reason="needs gcc and Slurm's headers",
)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    done = subprocess.run(
        ["make", "-s", "-C", str(SOURCES), f"BUILD={folder}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "hydro.so"


def test_only_slurms_entry_points_are_exported(plugin: Path) -> None:
    output = subprocess.run(
        ["nm", "-D", "--defined-only", str(plugin)], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in output.splitlines()}
    assert names == {
        "plugin_name",
        "plugin_type",
        "plugin_version",
        "spank_plugin_version",
        "slurm_spank_init",
        "slurm_spank_init_post_opt",
        "slurm_spank_task_init_privileged",
        "slurm_spank_task_init",
        "slurm_spank_exit",
    }


def test_hardening_is_in_the_binary(plugin: Path) -> None:
    output = subprocess.run(
        ["readelf", "-W", "-d", "-l", str(plugin)], capture_output=True, text=True, check=True
    ).stdout
    assert "GNU_RELRO" in output
    assert "BIND_NOW" in output or "NOW" in output
    stack = next(line for line in output.splitlines() if "GNU_STACK" in line)
    assert "E" not in stack.split()[-2]


def test_it_is_short_enough_to_be_read() -> None:
    files = [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]
    assert len(files) >= 7
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert len(lines) < MAX_LINES
