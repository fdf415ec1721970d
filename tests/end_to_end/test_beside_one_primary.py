"""What happens beside one training on a real cluster: gangs that are stopped, killed, or end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from hydro_hpc.identity import is_stopped
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind
from hydro_hpc.study import load_study
from tests.end_to_end.road import GANG, SETTINGS, Road, empty_homes, processes_of, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed, pytest.mark.timeout(300)]

LIMIT_MS: Final = 100
HYDRO: Final = f"{sys.prefix}/bin/hydro"
TRIALS: Final = 8  # four for each worker
SHORT: Final = 50  # epochs; each worker has begun before the other is done
LONG: Final = 150  # both workers outlast a pause
ENDLESS: Final = 100_000


@pytest.fixture
def lent(road_of_class: Road) -> Road:
    """A road whose primary trains: the one of the test before, if that left it running."""
    road = road_of_class
    if not road.primary or road.jobs.state(road.primary) != "RUNNING":
        road.primary = road.train()
    return road


def end_gang(road: Road) -> None:
    """Ends the gang of the test before, with all that it has left."""
    road.jobs.end_tenants()
    road.gangs.clear()
    empty_homes(road.cluster, "bob")


def train_gang(road: Road, *, epochs: int) -> int:
    """Returns a gang of bob's that trains: that of the test before, if that left such a one."""
    gang = road.gangs.get(epochs)
    if gang is None or road.jobs.state(gang) != "RUNNING":
        end_gang(road)
        road.study("bob", trials=TRIALS, epochs=epochs)
        gang = road.gangs[epochs] = road.submit("bob", GANG, "--bubbles=2")
    road.wait_for_workers()
    return gang


class TestBesideOnePrimary:
    """Studies that come and go beside one training; only the last test ends it."""

    def test_owner_pauses_and_resumes_what_his_job_lends(self, lent: Road) -> None:
        gang = train_gang(lent, epochs=ENDLESS)

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

    def test_primary_goes_on_when_everything_of_ours_is_stopped_in_mid_bubble(
        self, lent: Road
    ) -> None:
        train_gang(lent, epochs=ENDLESS)
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

    def test_an_admins_pause_suspends_the_gang_on_a_job_as_a_whole(self, lent: Road) -> None:
        primary, gang = lent.primary, train_gang(lent, epochs=LONG)
        refused = lent.cluster.run([HYDRO, "pause", str(primary)], user="bob", timeout_s=60)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"hydro: scontrol suspend {gang} failed: "), refused.stderr

        pids = [*processes_of("hydro-trial"), *processes_of("hydro_hpc.trial")]
        assert len(pids) >= 5  # two supervisors, two workers, the search
        with ThreadPoolExecutor() as beside:
            pausing = beside.submit(
                lent.cluster.on_node, "login", [HYDRO, "pause", str(primary)], timeout_s=60
            )
            took_ms = ms_from_first_to_last_stop(pids)
            paused = pausing.result()
        expected = f"on the devices of job {primary}, suspended: gang {gang}\n"
        assert (paused.stdout, paused.stderr) == (expected, "")
        print(f"suspend: {took_ms:.0f} ms from the first process that is stopped to the last")
        assert took_ms < LIMIT_MS
        lent.jobs.wait_state(gang, "SUSPENDED")

        before, steps = lent.samples(), len(lent.steps())
        wait_until(lambda: len(lent.steps()) > steps + 20, "the primary goes on")
        assert lent.samples() == before
        resumed = lent.cluster.on_node("login", [HYDRO, "resume", str(primary)], timeout_s=60)
        assert resumed.stdout == f"on the devices of job {primary}, resumed: gang {gang}\n"
        lent.jobs.wait_state(gang, "RUNNING")
        assert lent.jobs.state(primary) == "RUNNING"

    def test_study_of_another_user_completes_in_the_bubbles_of_both_stages_and_loses_nothing(
        self, lent: Road
    ) -> None:
        """The study that the test before has suspended."""
        gang = train_gang(lent, epochs=LONG)
        lent.wait_for_end(gang, "bob")
        results = lent.results("bob")
        assert (results.completed, results.failed, results.in_work) == (TRIALS, 0, 0)
        journal = lent.cluster.home("bob") / "tiny.hydro/journal.log"
        assert journal.read_text().count('"values":[') == TRIALS
        assert results.best is not None
        alone = load_study(lent.cluster.home("bob") / "study.py")
        value = alone.run_alone(results.best.params, results.best.seed)
        assert value == pytest.approx(results.best.value, rel=1e-4)
        assert lent.jobs.state(lent.primary) == "RUNNING"
        stages = [lent.page(node, PageKind.STAGE) for node in range(2)]
        assert [page.get("stage") for page in stages if page is not None] == [0, 1]

    def test_study_in_an_own_allocation_by_srun(self, lent: Road) -> None:
        end_gang(lent)
        study = lent.study("alice")
        wait_until(lambda: len(lent.steps()) > 5, "the primary makes steps")
        command = ["srun", f"--jobid={lent.primary}", "--overlap", "--mpi=pmix", "--nodes=2"]
        command += ["--ntasks-per-node=1", "--kill-on-bad-exit=0", "hydro-trial", str(study)]
        done = lent.cluster.run(
            command, user="alice", cwd=study.parent, environment=SETTINGS, timeout_s=150
        )
        assert done.returncode == 0, done.stderr
        assert lent.results("alice").completed == 6

    def test_gang_whose_primary_is_killed_waits_and_loses_nothing(self, lent: Road) -> None:
        gang = train_gang(lent, epochs=SHORT)
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
        assert (results.completed, results.failed, results.in_work) == (TRIALS, 0, 0)


def ms_from_first_to_last_stop(pids: list[int]) -> float:
    """Returns how long after the suspend had reached them the last of these processes ran on."""
    give_up_s = time.monotonic() + 30
    first_s = 0.0
    while not all(map(is_stopped, pids)):
        if not first_s and any(map(is_stopped, pids)):
            first_s = time.monotonic()
        assert time.monotonic() < give_up_s, (
            f"not stopped: {[p for p in pids if not is_stopped(p)]}"
        )
        time.sleep(0.001)
    return (time.monotonic() - first_s) * 1e3 if first_s else 0.0


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
