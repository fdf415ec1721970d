"""The prolog and epilog scripts themselves: when they do nothing, and that they never fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import slurm_plugin

SOURCES = Path(slurm_plugin.__file__).parent


class Node:
    """A made-up node: its page directory, settings, and a program that notes its start."""

    def __init__(self, root: Path) -> None:
        self.pages = root / "pages"
        (self.pages / "jobs").mkdir(parents=True)
        self.config = root / "lanes.conf"
        self.started = root / "started"
        self.python = root / "python"
        self.python.write_text(f'#!/bin/sh\necho "$@" >> {self.started}\n')
        self.python.chmod(0o755)
        self.config.write_text(
            "# a comment\n[lanes]\n"
            f"page_dir = {self.pages}\ntenant_partition=bubble\npython = {self.python}\n"
            "program = /x/hydro-lanes.pyz\ndevice = /dev/nvidia%d\n"
        )
        for name in ("prolog", "epilog"):
            text = (SOURCES / f"{name}.d/50-hydro").read_text()
            installed = "config=/etc/slurm/hydro/lanes.conf\n"
            assert text.count(installed) == 1
            (root / name).write_text(text.replace(installed, f"config={self.config}\n"))
        self.root = root

    def run(self, name: str, **environment: str) -> str:
        """Runs a script as slurmd does, without PATH; returns what the program was called with."""
        done = subprocess.run(
            ["/bin/sh", str(self.root / name)],
            env={"SLURM_JOB_ID": "7", "SLURM_JOB_PARTITION": "main"} | environment,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return self.started.read_text().strip() if self.started.exists() else ""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_another_job_on_a_node_without_trials_starts_nothing(node: Node) -> None:
    (node.pages / "gpu0").mkdir()
    (node.pages / "gpu0/site").touch()  # lent once, or now
    assert node.run("prolog") == ""
    assert node.run("epilog") == ""


@pytest.mark.parametrize(
    "environment", [{"SPANK_HYDRO_BUBBLE": "1"}, {"SLURM_JOB_PARTITION": "bubble"}]
)
def test_the_prolog_of_our_jobs_starts_the_program(node: Node, environment: dict[str, str]) -> None:
    expected = f"-I /x/hydro-lanes.pyz --config {node.config} prolog"
    assert node.run("prolog", **environment) == expected


def test_any_job_meets_the_barrier_where_a_trial_is(node: Node) -> None:
    (node.pages / "gpu3").mkdir()
    (node.pages / "gpu3/lease.lock").touch()
    assert node.run("prolog").endswith(" prolog")


def test_the_epilog_of_our_jobs_starts_the_program(node: Node) -> None:
    (node.pages / "jobs/7").write_text("lender\n")
    assert node.run("epilog").endswith(" epilog")


def test_what_users_write_is_never_run(node: Node) -> None:
    node.run("prolog", SPANK_HYDRO_BUBBLE="$(touch /pwned); `touch /pwned`", SLURM_JOB_ID="*")
    assert not Path("/pwned").exists()


@pytest.mark.parametrize("name", ["prolog", "epilog"])
def test_a_broken_program_is_logged_and_fails_nobody(node: Node, name: str) -> None:
    (node.pages / "jobs/7").write_text("lender\n")
    node.python.write_text("#!/bin/sh\nexit 3\n")
    node.run(name, SPANK_HYDRO_BUBBLE="1")
    assert (
        f"{name}: {node.python} /x/hydro-lanes.pyz could not be run"
        in (node.pages / "log").read_text()
    )


@pytest.mark.parametrize("name", ["prolog", "epilog"])
def test_without_settings_or_page_directory_jobs_just_run(node: Node, name: str) -> None:
    node.config.write_text("[lanes]\npage_dir = /no/such\npython = /no/such\n")
    assert node.run(name, SPANK_HYDRO_BUBBLE="1") == ""
    node.config.unlink()
    assert node.run(name, SPANK_HYDRO_BUBBLE="1") == ""
