"""hydro-lanes.pyz as root starts it: one file, nothing installed, any Python from 3.9."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from slurm_plugin.build_lanes import MEMBERS, PACKAGES, build


def python_versions() -> list[str]:
    names = [sys.executable, "/usr/bin/python3", *(f"python3.{minor}" for minor in range(9, 15))]
    found = {os.path.realpath(path) for path in map(shutil.which, names) if path}
    return sorted(path for path in found if _runs(path))


def _runs(path: str) -> bool:
    code = "import sys; sys.exit(sys.version_info < (3, 9))"
    return subprocess.run([path, "-I", "-c", code], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("zipapp") / "hydro-lanes.pyz")


def run(python: str, program: Path, *arguments: str, **environment: str) -> str:
    command = [python, "-I", str(program), *arguments]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("python", python_versions())
def test_a_lane_is_lent_and_taken(python: str, program: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir(mode=0o755)
    config = tmp_path / "lanes.conf"
    device = f"{tmp_path}/device%d"
    config.write_text(
        f"[lanes]\npage_dir={tmp_path}/pages\ndevice={device}\nnum_devices=3\n"
        "cpu_cores=0,1,0\nconstrain_devices=yes\n"
    )
    for index in (0, 2):
        Path(device % index).touch()
    step = ["--job", "5", "--step", "0", "--uid", str(os.getuid()), "--pid", str(os.getpid())]
    assert run(python, program, "--config", str(config), "prolog", SLURM_JOB_ID="5") == ""
    not_a_lender = run(python, program, "--config", str(config), "lend", *step)
    assert not_a_lender.startswith("HYDRO_LANES=\nCORES=\nhydro: job 5 was not submitted")
    run(
        python, program, "--config", str(config), "prolog",
        SLURM_JOB_ID="5", SPANK_HYDRO_BUBBLE="1",
    )  # fmt: skip
    lent = run(python, program, "--config", str(config), "lend", *step)
    assert lent == "HYDRO_LANES=0,2\nCORES=0,0\n"
    assert run(python, program, "--config", str(config), "take", *step) == lent


@pytest.mark.parametrize("verb", ["lend", "take", "leave", "close", "evict", "prolog", "epilog"])
def test_a_missing_page_directory_is_one_sentence_and_no_failure(
    program: Path, tmp_path: Path, verb: str
) -> None:
    config = tmp_path / "lanes.conf"
    config.write_text(f"[lanes]\npage_dir={tmp_path}/none\n")
    output = run(sys.executable, program, "--config", str(config), verb, SLURM_JOB_ID="5")
    assert output == (
        f"hydro: {tmp_path}/none: No such file or directory; mount the page directory\n"
    )


def test_what_runs_as_root_is_old_python_and_the_standard_library() -> None:
    root = Path(__file__).parents[3]
    allowed = {*sys.stdlib_module_names, "hydro_hpc", "slurm_plugin"}
    inside = {member.removesuffix(".py").replace("/", ".") for member in MEMBERS}
    for member in MEMBERS:
        tree = ast.parse((root / member).read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in allowed
                if name.startswith(("hydro_hpc", "slurm_plugin")):
                    assert name in inside, f"{member} imports {name}, which is not in the zipapp"


def test_the_same_sources_give_the_same_file(program: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again.pyz")
    assert again.read_bytes() == program.read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert set(archive.namelist()) == {*MEMBERS, *PACKAGES, "__main__.py"}
