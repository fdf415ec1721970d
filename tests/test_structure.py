"""The rules of the house that can be read off the imports, and what a built wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip")
CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}
SCHEDULES = ROOT / "hydro_hpc/schedules"
PACKAGES = ("hydro_hpc", "slurm_plugin")
LONGEST = 400  # lines
ADAPTERS = {
    "pyslurm": (),
    "pynvml": (),
    "deepspeed": (),
    "mpi4py": ("hydro_hpc/trial/gang.py",),
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Returns the full names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_below(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in imports(path))


@pytest.mark.parametrize("library", sorted(ADAPTERS))
def test_only_adapters_import_foreign_machinery(library: str) -> None:
    found = {str(path.relative_to(ROOT)) for path in sources() if imports_below(path, library)}
    assert found == set(ADAPTERS[library])


def test_primary_and_trial_share_nothing_but_the_page() -> None:
    for path in sources():
        inside = path.relative_to(ROOT).parts[1]
        if inside == "primary":
            assert not imports_below(path, "hydro_hpc.trial"), path
            assert not imports_below(path, "hydro_hpc.study"), path
        elif inside == "trial":
            assert not imports_below(path, "hydro_hpc.primary"), path


def test_slurm_plugin_never_imports_torch() -> None:
    for path in (ROOT / "slurm_plugin").rglob("*.py"):
        assert not imports_below(path, "torch"), path


def test_pages_are_written_for_the_standard_library_alone() -> None:
    for name in ("page", "page_layout", "identity"):
        found = imports(ROOT / f"hydro_hpc/{name}.py")
        roots = {module.partition(".")[0] for module in found} - {"__future__", "hydro_hpc"}
        assert roots <= set(sys.stdlib_module_names)


def test_schedules_are_written_for_the_standard_library_alone() -> None:
    """Where they are read from an engine, they are read by their attributes and their text."""
    for path in SCHEDULES.rglob("*.py"):
        for module in imports(path) - {"__future__"}:
            is_ours = module.startswith(("hydro_hpc.schedules", "hydro_hpc.errors"))
            assert is_ours or module.partition(".")[0] in sys.stdlib_module_names, (path, module)


def test_pure_modules_read_no_clock() -> None:
    pure = [
        "hydro_hpc/primary/windows.py",
        "hydro_hpc/primary/alarm.py",
        "hydro_hpc/primary/guard.py",
        "hydro_hpc/trial/events.py",
        "hydro_hpc/trial/footprint.py",
        "hydro_hpc/trial/residency.py",
        "slurm_plugin/placement.py",
        "slurm_plugin/eligibility.py",
        *(f"hydro_hpc/schedules/{path.name}" for path in SCHEDULES.glob("*.py")),
    ]
    for name in pure:
        assert not imports(ROOT / name) & {"os", "subprocess", "torch", "datetime"}, name
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        read = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "time"
        }
        assert not read & CLOCKS, name


def test_files_are_replaced_in_one_place() -> None:
    """`str.replace` takes two arguments, and `dataclasses.replace` names all but the first; lanes
    hold their directory open, and libraries are compiled beside the old one.
    """
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
                moves = node.func.attr in ("replace", "rename") and not node.keywords
                if moves and len(node.args) == (2 if is_os else 1):
                    found.add(str(path.relative_to(ROOT)))
    of_symbols = "hydro_hpc/surrogate/tracing/trace.py"
    assert found == {"hydro_hpc/atomic_write.py", "slurm_plugin/build_lanes.py", of_symbols}


def test_no_file_is_longer_than_one_concept() -> None:
    folders = (*PACKAGES, "tests", "benchmarks", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {path: length for path, length in lengths.items() if length > LONGEST}


def test_no_file_is_named_after_nothing() -> None:
    nothing = {"utils", "helpers", "common", "manager", "handler", "service", "misc"}
    for path in sources():
        assert path.stem not in nothing, path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(directory),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
        timeout=110,
    )
    [path] = directory.glob("*.whl")
    return path


@pytest.mark.timeout(240)
def test_wheel_holds_what_a_site_installs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "slurm_plugin/spank/hydro_dispatch.c",
        "slurm_plugin/spank/Makefile",
        "slurm_plugin/spank/hydro.lds",
        "slurm_plugin/job_submit/hydro.lua",
        "slurm_plugin/prolog.d/50-hydro",
        "slurm_plugin/epilog.d/50-hydro",
        "hydro_hpc/devcluster/setup.sh",
        "site_config/slurm.conf.d/hydro.conf",
        "sbatch_templates/study.sbatch",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.timeout(240)
def test_built_wheel_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone; what it depends on is taken from this environment, to download nothing."""
    target = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(target),
            str(wheel),
        ],
        check=True,
        capture_output=True,
        timeout=110,
    )
    for command in ("hydro", "hydro-trial"):
        script = target / "bin" / command
        result = subprocess.run(
            [sys.executable, str(script), "--help"],
            env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert f"usage: {command}" in result.stdout
