"""A DeepSpeed job that lends and a gang that takes, as two users submit them to a real cluster."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hydro_hpc.devcluster import Cluster
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.page import Page
from hydro_hpc.page_layout import PageKind
from hydro_hpc.report.lanes import cluster_lanes
from hydro_hpc.report.recording import read_written
from hydro_hpc.study import load_study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Results, Search
from tests.hydro_hpc.tiny_study import write_study
from tests.slurm_plugin.cluster.slurm_jobs import Jobs

TRAIN = Path(__file__).parents[2] / "examples/gpt_pipeline/train.py"
SMALL = "--layers=2 --width=96 --micro-batch-size=2"
PRIMARY = f"""#!/bin/bash
srun python {{train}} --steps={{steps}} {SMALL} --loss-file={{losses}}
"""
GANG = """#!/bin/bash
srun --mpi=pmix --kill-on-bad-exit=0 hydro-trial study.py
"""
LENDING = ("--hydro-bubble", "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:1")
# Other tests share the cores: the idle class could wait for ever, and delays are no overruns.
SETTINGS = {
    "HYDRO_IDLE_CLASS": "0",
    "HYDRO_GRACE_MS": "5000",
    "HYDRO_GUARD_BOUND": "0.9",
    "OMP_NUM_THREADS": "1",
}


def wait_until(
    condition: Callable[[], object], what: Callable[[], str] | str, timeout_s: float = 120
) -> None:
    """`what` says what was waited for, and what is seen instead."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            text = what if isinstance(what, str) else what()
            pytest.fail(f"it did not happen in {timeout_s} s: {text}")
        time.sleep(0.1)


class Road:
    """The two jobs, and a look at their lanes."""

    def __init__(self, cluster: Cluster, jobs: Jobs) -> None:
        self.cluster = cluster
        self.jobs = jobs
        self.primary = 0  # the job that lends, of the tests that share one
        self.gangs: dict[int, int] = {}  # bob's jobs beside it, by their trials' epochs
        state = load_state(cluster.spec.directory)
        assert state is not None
        self.places = cluster_lanes(state)

    def submit(self, user: str, text: str, *options: str, name: str = "job.sbatch") -> int:
        script = self.jobs.script(user, name, text)
        done = self.cluster.run(
            ["sbatch", *options, script],
            user=user,
            cwd=self.cluster.home(user),
            environment=SETTINGS,
            timeout_s=60,
        )
        assert done.returncode == 0, done.stderr
        found = re.search(r"Submitted batch job (\d+)", done.stdout)
        assert found
        return int(found[1])

    def put_training(self) -> Path:
        """The primary's script and model in alice's home; returns the script."""
        home = self.cluster.home("alice")
        for source in (TRAIN, TRAIN.with_name("gpt.py")):
            shutil.copy(source, home / source.name)
        return home / TRAIN.name

    def train(self, *options: str, steps: int = 1_000_000, losses: str = "losses.jsonl") -> int:
        """Submits the primary as alice."""
        text = PRIMARY.format(train=self.put_training(), steps=steps, losses=losses)
        return self.submit("alice", text, *(options or LENDING))

    def study(self, user: str, *, trials: int = 6, epochs: int = 3) -> Path:
        path = write_study(self.cluster.home(user), trials=trials, epochs=epochs)
        shutil.chown(path, user=self.cluster.home(user).stat().st_uid)
        return path

    def steps(self, losses: str = "losses.jsonl") -> list[dict[str, float]]:
        text = self.jobs.text("alice", losses)
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def page(self, node: int, kind: PageKind) -> Page | None:
        return read_written(self.places[node], kind)

    def samples(self) -> list[int]:
        pages = [self.page(node, PageKind.TRIAL) for node in range(2)]
        return [0 if page is None else page.get("num_samples") for page in pages]

    def pids(self, kind: PageKind) -> list[int]:
        pages = [self.page(node, kind) for node in range(2)]
        return [page.get("pid") for page in pages if page is not None]

    def results(self, user: str) -> Results:
        home = self.cluster.home(user)
        description = load_study(home / "study.py").description
        search = Search(description, StudyFolder(home, description.name))
        try:
            return search.results()
        finally:
            search.close()

    def outputs(self, user: str) -> str:
        texts = [
            path.read_text(errors="replace")[-2000:]
            for pattern in ("slurm-*.out", "hydro-trial-*.log")
            for path in self.cluster.home(user).glob(pattern)
        ]
        return "\n".join(texts)

    def wait_for_workers(self) -> None:
        wait_until(
            lambda: all(self.samples()), lambda: f"both workers train: {self.outputs('bob')}"
        )

    def wait_for_end(self, job: int, user: str, timeout_s: float = 150) -> None:
        wait_until(
            lambda: self.jobs.state(job) in ("COMPLETED", "FAILED", "CANCELLED"),
            lambda: f"the end of job {job}: {self.jobs.fields(job)} {self.outputs(user)}",
            timeout_s,
        )
        assert self.jobs.state(job) == "COMPLETED", self.outputs(user)


def processes_of(word: str) -> list[int]:
    """Returns the pids of bob's processes with `word` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            owner = entry.stat().st_uid
        except OSError:
            continue
        if word in line and owner not in (0,) and "srun" not in line.split("\0")[0]:
            found.append(int(entry.name))
    return found


def empty_homes(cluster: Cluster, *users: str) -> None:
    for user in users:
        for path in cluster.home(user).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
