"""The whole road on a real cluster: a DeepSpeed job lends, studies of others run in its bubbles."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydro_hpc.devcluster import Cluster
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind
from hydro_hpc.report.lanes import cluster_lanes
from hydro_hpc.report.recording import read_written
from hydro_hpc.study import load_study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Results, Search
from tests.hydro_hpc.tiny_study import write_study
from tests.hydro_hpc.warm_python import WarmPython
from tests.slurm_plugin.cluster.slurm_jobs import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed, pytest.mark.timeout(300)]

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

    def train(self, *options: str, steps: int = 1_000_000, losses: str = "losses.jsonl") -> int:
        """Submits the primary as alice."""
        train = self.cluster.home("alice") / "train.py"
        shutil.copy(TRAIN, train)
        text = PRIMARY.format(train=train, steps=steps, losses=losses)
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


def empty_homes(cluster: Cluster, *users: str) -> None:
    for user in users:
        for path in cluster.home(user).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def road(cluster: Cluster) -> Iterator[Road]:
    empty_homes(cluster, *cluster.users)
    jobs = Jobs(cluster)
    yield Road(cluster, jobs)
    jobs.end_all()


@pytest.fixture(scope="class")
def road_of_class(cluster: Cluster) -> Iterator[Road]:
    empty_homes(cluster, *cluster.users)
    jobs = Jobs(cluster)
    yield Road(cluster, jobs)
    jobs.end_all()


@pytest.fixture
def lent(road_of_class: Road) -> Iterator[Road]:
    """A road whose primary trains: the one of the test before, if that left it running."""
    road = road_of_class
    empty_homes(road.cluster, "bob")
    if not road.primary or road.jobs.state(road.primary) != "RUNNING":
        road.primary = road.train()
    yield road
    road.jobs.end_tenants()


class TestBesideOnePrimary:
    """Studies that come and go beside one training; only the last test ends it."""

    def test_study_of_another_user_completes_in_the_bubbles_of_both_stages(
        self, lent: Road
    ) -> None:
        lent.study("bob", trials=8, epochs=60)  # long enough for both workers to be seen
        gang = lent.submit("bob", GANG, "--bubbles=2")
        lent.wait_for_workers()
        lent.wait_for_end(gang, "bob")
        results = lent.results("bob")
        assert (results.completed, results.failed) == (8, 0)
        assert results.best is not None
        alone = load_study(lent.cluster.home("bob") / "study.py")
        value = alone.run_alone(results.best.params, results.best.seed)
        assert value == pytest.approx(results.best.value, rel=1e-4)
        assert lent.jobs.state(lent.primary) == "RUNNING"
        stages = [lent.page(node, PageKind.STAGE) for node in range(2)]
        assert [page.get("stage") for page in stages if page is not None] == [0, 1]

    def test_owner_pauses_and_resumes_what_his_job_lends(self, lent: Road) -> None:
        lent.study("bob", trials=8, epochs=100_000)  # four for each worker
        gang = lent.submit("bob", GANG, "--bubbles=2")
        lent.wait_for_workers()

        def switch(verb: str, user: str) -> subprocess.CompletedProcess[str]:
            home = lent.cluster.home(user)
            command = ["hydro", verb, str(lent.primary)]
            return lent.cluster.run(command, user=user, cwd=home, timeout_s=60)

        assert switch("pause", "bob").returncode == 1
        paused = switch("pause", "alice")
        assert (paused.returncode, paused.stdout.count("1 device of job")) == (0, 2), paused.stderr
        before, steps = lent.samples(), len(lent.steps())
        wait_until(lambda: len(lent.steps()) > steps + 10, "the primary goes on")
        assert lent.samples() == before
        assert switch("resume", "alice").returncode == 0
        wait_until(
            lambda: all(now > then for now, then in zip(lent.samples(), before, strict=True)),
            lambda: f"both workers train again: {lent.outputs('bob')}",
        )
        assert lent.jobs.state(gang) == "RUNNING"

    def test_study_in_an_own_allocation_by_srun(self, lent: Road) -> None:
        study = lent.study("alice")
        wait_until(lambda: len(lent.steps()) > 5, "the primary makes steps")
        command = ["srun", f"--jobid={lent.primary}", "--overlap", "--mpi=pmix", "--nodes=2"]
        command += ["--ntasks-per-node=1", "--kill-on-bad-exit=0", "hydro-trial", str(study)]
        done = lent.cluster.run(
            command, user="alice", cwd=study.parent, environment=SETTINGS, timeout_s=150
        )
        assert done.returncode == 0, done.stderr
        assert lent.results("alice").completed == 6

    def test_primary_goes_on_when_everything_of_ours_is_stopped_in_mid_bubble(
        self, lent: Road
    ) -> None:
        lent.study("bob", trials=50, epochs=10_000)
        lent.submit("bob", GANG, "--bubbles=2")
        lent.wait_for_workers()
        coordinator = lent.cluster.status().processes["coordinator"]
        ours = [coordinator, *processes_of("hydro-trial"), *processes_of("hydro_hpc.trial")]
        assert len(ours) >= 6  # coordinator, two supervisors, two workers, the search
        stage = lent.page(1, PageKind.STAGE)
        assert stage is not None
        path = page_path(lent.places[1].path, PageKind.STAGE)
        wait_until(
            lambda: Page.read_copy(path, PageKind.STAGE).get("gate_word") & 3 == GATE_OPEN,
            "an open gate",
        )
        for pid in ours:
            os.kill(pid, signal.SIGSTOP)
        try:
            before = len(lent.steps())
            wait_until(lambda: len(lent.steps()) >= before + 30, "30 steps", timeout_s=60)
            check_calls_of_rank(stage.get("pid"))
        finally:
            for pid in ours:
                os.kill(pid, signal.SIGCONT)

    def test_gang_whose_primary_is_killed_waits_and_loses_nothing(self, lent: Road) -> None:
        lent.study("bob", trials=5, epochs=50)
        gang = lent.submit("bob", GANG, "--bubbles=2")
        lent.wait_for_workers()
        for pid in lent.pids(PageKind.STAGE):
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: lent.jobs.state(gang) == "PENDING",
            lambda: f"the gang waits again: {lent.jobs.fields(gang)} {lent.outputs('bob')}",
        )
        wait_until(lambda: lent.jobs.state(lent.primary) == "FAILED", "the first primary ended")
        assert re.fullmatch(r"hydro:failed=\S+;count=1", lent.jobs.fields(gang)["Comment"])
        for node in ("n1", "n2"):
            assert lent.jobs.step_processes(node, "bob") == []
        lent.train(losses="second.jsonl")
        lent.wait_for_end(gang, "bob", timeout_s=200)
        results = lent.results("bob")
        assert (results.completed, results.failed, results.in_work) == (5, 0, 0)


def test_study_beside_its_own_job_starts_and_ends_with_it(road: Road) -> None:
    study = road.study("alice")
    options = (f"--hydro-bubble={study}", *LENDING[1:])
    primary = road.train(*options)
    journal = study.parent / "tiny.hydro/journal.log"
    wait_until(
        lambda: journal.exists() and journal.read_text().count('"values":[') == 6,
        lambda: f"6 trials complete: {road.outputs('alice')}",
    )
    assert road.jobs.state(primary) == "RUNNING"


def test_opted_in_job_that_never_pipelines_sends_the_gang_away(road: Road) -> None:
    script = """#!/bin/bash
srun python -c "
import torch, time, torch.distributed as dist, os
os.environ.update(RANK=os.environ['SLURM_PROCID'], WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
os.environ['MASTER_PORT'] = str(20000 + int(os.environ['SLURM_JOB_ID']) % 20000)
dist.init_process_group('gloo')
weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([weight], lr=0.1)
while True:
    time.sleep(0.02)
    weight.grad = torch.zeros(1)
    optimizer.step()
"
"""
    road.submit("alice", script, *LENDING)
    road.study("bob")
    gang = road.submit("bob", GANG, "--bubbles=2")
    wait_until(
        lambda: road.jobs.fields(gang).get("Comment", "").startswith("hydro:failed="),
        lambda: f"the gang learns why: {road.jobs.fields(gang)} {road.outputs('bob')}",
    )
    assert "no-bubbles" in road.jobs.fields(gang)["Comment"]
    assert "hydro: nothing is lent: this job never waits 2 ms" in road.outputs("alice")


def test_losses_of_the_primary_are_bit_identical_with_and_without_trials(
    road: Road, warm: WarmPython, tmp_path: Path
) -> None:
    alone = train_here(warm, tmp_path, steps=40)
    primary = road.train(steps=120)
    road.study("bob", trials=50, epochs=1000)
    road.submit("bob", GANG, "--bubbles=2")
    wait_until(
        lambda: all(road.samples()) or road.jobs.state(primary) != "RUNNING", "both workers train"
    )
    wait_until(lambda: len(road.steps()) >= 40, "40 steps beside trials")
    beside = road.steps()[:40]
    assert [step["loss"] for step in beside] == [step["loss"] for step in alone]


def train_here(python: WarmPython, directory: Path, *, steps: int) -> list[dict[str, float]]:
    """Trains the same job without Slurm and without us; returns its steps."""
    losses = directory / "alone.jsonl"
    arguments = (f"--steps={steps}", *SMALL.split(), f"--loss-file={losses}")
    python.run_ranks(str(TRAIN), *arguments, page_dir=None)
    return [json.loads(line) for line in losses.read_text().splitlines()]


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


def check_calls_of_rank(pid: int) -> None:
    """Looks at the system calls of a rank for 2 s: none may wait on what a trial could hold."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: the rank's system calls were not looked at")
    mapped = [
        line.split()[0]
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if "/gpu0/stage" in line
    ]
    assert mapped, "the rank has its stage page mapped"
    traced = subprocess.run(
        ["timeout", "2", strace, "-f", "-e", "trace=futex,flock,fcntl,openat", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    first, last = (int(end, 16) for end in mapped[0].split("-"))
    waits = [int(found, 16) for found in re.findall(r"futex\((0x[0-9a-f]+), FUTEX_WAIT\b", traced)]
    assert not [address for address in waits if first <= address < last]
    wakes = [int(found, 16) for found in re.findall(r"futex\((0x[0-9a-f]+), FUTEX_WAKE\b", traced)]
    assert [address for address in wakes if first <= address < last], "the gate was opened"
    assert "flock(" not in traced
    assert not re.search(r"openat\([^)]*(trial|lease)", traced)
