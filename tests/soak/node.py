"""A node of the soak test: what Slurm and root do on it, with the real program of the plugin.

It has two devices (cores), a page directory on a tmpfs of its own, and a user for each side. As
anybody but root, all is one user's, and the page directory a directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hydro_hpc.devices.cpu_core import die_with_parent
from hydro_hpc.page import lane_dir
from slurm_plugin.build_lanes import build

ROOT: Final = Path(__file__).parents[2]
NUM_DEVICES: Final = 2
TENANT_LANE: Final = 1  # the gang's
FREE_LANE: Final = 0  # lent, and nobody's
IS_ROOT: Final = os.geteuid() == 0
PAGES_SIZE: Final = "12m"
CONFIG: Final = """\
[lanes]
page_dir={pages}
device={devices}%d
num_devices=2
cpu_cores={cores}
grace_s=2
constrain_devices=unenforced
"""
RECORDER: Final = '#!/bin/sh\necho "$(basename "$0") $*" >> {calls}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who owns the processes of one side; the ids need no entry in passwd."""

    uid: int
    home: Path

    def start(
        self,
        command: list[str],
        *,
        log: Path,
        stdin: int = subprocess.DEVNULL,
        **environment: str,
    ) -> subprocess.Popen[bytes]:
        """Starts a process of his, in a session of its own; it ends with this one."""
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.home,
                env=self._environment() | environment,
                stdin=stdin,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self.uid if IS_ROOT else None,
                group=self.uid if IS_ROOT else None,
                extra_groups=[] if IS_ROOT else None,
                preexec_fn=die_with_parent,
            )

    def folder(self, name: str) -> Path:
        """Makes a folder of his in his home."""
        path = self.home / name
        path.mkdir()
        os.chown(path, self.uid, self.uid if IS_ROOT else -1)
        return path

    def _environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("HYDRO_")}
        here = {"HOME": str(self.home), "USER": "soak", "PYTHONPATH": str(ROOT)}
        return kept | here | {"OMP_NUM_THREADS": "1"}


class Node:
    """The node. `close` takes it away again."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="hydro-soak-"))
        self.path.chmod(0o755)
        self.pages = self.path / "pages"
        self.calls = self.path / "slurm-calls"
        self.cores = sorted(os.sched_getaffinity(0))[:NUM_DEVICES] * NUM_DEVICES
        self.alice = self._user("alice", 60_001)
        self.bob = self._user("bob", 60_002)
        self.program = build(self.path / "hydro-lanes.pyz")
        self._make_pages()
        self._make_config("lender", range(NUM_DEVICES))
        self._make_config("tenant", [TENANT_LANE])
        self._make_config("stranger", [FREE_LANE])
        self._make_slurm()
        self._last_job = 100

    def _user(self, name: str, uid: int) -> User:
        home = self.path / name
        home.mkdir()
        if IS_ROOT:
            os.chown(home, uid, uid)
        return User(uid=uid if IS_ROOT else os.geteuid(), home=home)

    def _make_pages(self) -> None:
        self.pages.mkdir()
        self.pages.chmod(0o755)
        if IS_ROOT:
            options = f"size={PAGES_SIZE},mode=0755"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "soak", self.pages], check=True)

    def _make_config(self, role: str, granted: list[int] | range) -> None:
        """What the device cgroup of such a job lets it open is there, the rest is not."""
        for index in granted:
            (self.path / f"{role}-device{index}").touch()
        cores = ",".join(str(core) for core in self.cores[:NUM_DEVICES])
        devices = self.path / f"{role}-device"
        text = CONFIG.format(pages=self.pages, devices=devices, cores=cores)
        (self.path / f"{role}.conf").write_text(text)

    def _make_slurm(self) -> None:
        """Slurm's commands, as far as a gang calls them: they note that they were called."""
        self.calls.touch()
        self.calls.chmod(0o666)
        (self.path / "bin").mkdir()
        for name in ("squeue", "scontrol"):
            path = self.path / "bin" / name
            path.write_text(RECORDER.format(calls=self.calls))
            path.chmod(0o755)

    def close(self) -> None:
        if IS_ROOT:
            subprocess.run(["umount", "--lazy", self.pages], check=True)
        shutil.rmtree(self.path)

    # -- what Slurm does -----------------------------------------------------------------------

    def new_job(self, role: str) -> int:
        """Runs the prolog of a job with this role; returns its number."""
        self._last_job += 1
        partition = "bubble" if role == "tenant" else "main"
        environment = {"SLURM_JOB_ID": str(self._last_job), "SLURM_JOB_PARTITION": partition}
        if role == "lender":
            environment["SPANK_HYDRO_BUBBLE"] = "1"
        self.run("prolog", role, environment=environment)
        return self._last_job

    def end_job(self, job: int) -> None:
        """Runs the job's epilog."""
        self.run("epilog", "lender", environment={"SLURM_JOB_ID": str(job)})

    def run(
        self, verb: str, role: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> str:
        """Runs root's program to its end and returns what it says."""
        process = self.start(verb, role, *options, environment=environment)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output
        return output

    def start(
        self, verb: str, role: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts root's program as the plugin does."""
        command = [sys.executable, "-I", str(self.program), "--config"]
        return subprocess.Popen(
            [*command, str(self.path / f"{role}.conf"), verb, *options],
            env={"PATH": "/usr/bin:/bin", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    # -- looks ---------------------------------------------------------------------------------

    def lane(self, index: int) -> str:
        return lane_dir(str(self.pages), index)

    def lane_files(self, index: int) -> set[str]:
        return set(os.listdir(self.lane(index)))

    def processes(self, role: str) -> list[int]:
        """Returns the pids of all processes that were given lanes here for this role."""
        marks = {f"HYDRO_PAGE_DIR={self.pages}".encode(), f"HYDRO_ROLE={role}".encode()}
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if marks <= _environ(pid)]

    def kill(self, role: str) -> None:
        for pid in self.processes(role):
            os.kill(pid, signal.SIGKILL)


def _environ(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # it has ended
        return set()
