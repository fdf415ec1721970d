"""The coordinator on a real cluster: another user's gang opens exactly the devices that are lent.

Opening a made device node gives ENXIO where the device cgroup allows it, EPERM where it does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.identity import read_start_ticks

pytestmark = pytest.mark.slurm

WAIT_S = 40.0
ALLOWED, DENIED = "No such device or address", "Operation not permitted"
PROBE = """#!/bin/sh
#SBATCH --output=%j.out
cat >probe-$SLURM_JOB_ID.sh <<'END'
for i in 0 1; do
    [ -e /dev/hydro$i ] || continue
    echo "$(hostname -s) $i $( (exec 3</dev/hydro$i) 2>&1)"
done
END
srun --ntasks-per-node=1 --ntasks=$SLURM_JOB_NUM_NODES sh probe-$SLURM_JOB_ID.sh
echo tasks $SLURM_NTASKS
"""
LATER = "exec sleep 300\n"


class Site:
    """A cluster and its users: alice lends, bob's gangs come and go."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def sbatch(self, user: str, *options: str, script: str) -> int:
        done = self.cluster.run(["sbatch", "--parsable", *options], user=user, input=script)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def lend(self, devices_per_node: int) -> int:
        options = ("--hydro-bubble", "--nodes=2", "--ntasks-per-node=1", "--output=/dev/null")
        gres = f"--gres=gpu:{devices_per_node}"
        job = self.sbatch("alice", *options, gres, script="#!/bin/sh\n" + LATER)
        self.wait(lambda: self.state(job) == "RUNNING")
        return job

    def state(self, job: int) -> str:
        """Slurm's state of a job; empty if it has ended."""
        return self._squeue(job, "%T")

    def _squeue(self, job: int, column: str) -> str:
        argv = ["squeue", "--noheader", f"--format=%i {column}"]
        lines = self.cluster.run(argv, user="bob").stdout.splitlines()
        found = [line.split(maxsplit=1)[1] for line in lines if line.split()[0] == str(job)]
        return found[0] if found else ""

    def record(self, job: int) -> str:
        """What the job's user sees of it."""
        return self.cluster.run(["scontrol", "show", "job", str(job)], user="bob").stdout

    def scontrol(self, *words: str) -> None:
        done = self.cluster.run(["scontrol", *words], user="bob")
        assert done.returncode == 0, done.stderr

    def output(self, job: int) -> list[str]:
        """The sorted lines of a gang's output once it has ended."""
        self.wait(lambda: not self.state(job))
        return sorted((self.cluster.home("bob") / f"{job}.out").read_text().splitlines())

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.cluster.run(["squeue"], user="bob").stdout
            time.sleep(0.1)

    def clear(self) -> None:
        self.cluster.on_node("login", ["scancel", "--user=alice"])
        self.cluster.on_node("login", ["scancel", "--user=bob"])
        argv = ["squeue", "--noheader"]
        self.wait(lambda: not self.cluster.on_node("login", argv).stdout)


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Site]:
    """Two nodes of one device."""
    made = Site(cluster)
    yield made
    made.clear()


@pytest.fixture
def wide_site(cluster_directory: Path) -> Site:
    """Two nodes of two devices, the test's own."""
    cluster = Cluster(ClusterSpec(nodes=2, devices_per_node=2, directory=cluster_directory))
    if not_enforced := cluster.up().not_enforced:
        pytest.skip(not_enforced[0])
    return Site(cluster)


def test_a_study_opens_the_devices_of_another_users_primary_on_two_nodes_of_one(
    site: Site,
) -> None:
    site.lend(1)
    job = site.sbatch("bob", "--bubbles=2", script=PROBE)
    lines = site.output(job)
    assert [line.rpartition(": ")[2] for line in lines[:2]] == [ALLOWED, ALLOWED]
    assert [line.split()[0] for line in lines] == ["n1", "n2", "tasks"]
    assert lines[2] == "tasks 2"


def test_a_study_waits_for_a_lender_and_says_so(site: Site) -> None:
    job = site.sbatch("bob", "--bubbles=2", script=PROBE)
    site.wait(lambda: "waiting=no running job lends its bubbles" in site.record(job))
    assert site.state(job) == "PENDING"
    site.lend(1)
    assert len(site.output(job)) == 3


def test_a_study_that_wants_more_than_the_cluster_has_is_told(site: Site) -> None:
    job = site.sbatch("bob", "--bubbles=999", script=PROBE)
    site.wait(lambda: "wants 999 devices and the whole cluster has 2" in site.record(job))


def test_a_study_that_leaves_is_placed_again(site: Site) -> None:
    site.lend(1)
    job = site.sbatch("bob", "--bubbles=1-2", "--output=/dev/null", script="#!/bin/sh\n" + LATER)
    site.wait(lambda: site.state(job) == "RUNNING")
    site.scontrol("update", f"JobId={job}", "Comment=hydro:failed=no-writer;count=1")
    site.scontrol("requeuehold", str(job))
    site.wait(lambda: "waiting=failed 1 time (no-writer)" in site.record(job))
    site.wait(lambda: site.state(job) == "RUNNING")
    assert "Restarts=1" in site.record(job)


def test_a_study_that_slurm_requeues_does_not_wait_two_minutes(site: Site) -> None:
    site.lend(1)
    job = site.sbatch("bob", "--bubbles=2", "--output=/dev/null", script="#!/bin/sh\n" + LATER)
    site.wait(lambda: site.state(job) == "RUNNING")
    site.scontrol("requeue", str(job))
    site.wait(lambda: "Restarts=1" in site.record(job))
    site.wait(lambda: site.state(job) == "RUNNING")


def test_the_coordinator_sees_no_page_of_any_node(site: Site) -> None:
    pid = site.cluster.status().processes["coordinator"]
    assert not Path(f"/proc/{pid}/root{site.cluster.page_dir}").exists()
    assert site.cluster.on_node("n1", ["test", "-d", site.cluster.page_dir]).returncode == 0


def test_studies_share_two_nodes_of_two_and_each_opens_its_own(wide_site: Site) -> None:
    site = wide_site
    site.lend(2)
    whole = site.output(site.sbatch("bob", "--bubbles=4", script=PROBE))
    assert [line.rpartition(": ")[2] for line in whole[:4]] == [ALLOWED] * 4
    assert whole[4] == "tasks 4"
    first = site.sbatch("bob", "--bubbles=1", "--output=/dev/null", script="#!/bin/sh\n" + LATER)
    site.wait(lambda: site.state(first) == "RUNNING")
    second = site.output(site.sbatch("bob", "--bubbles=1", script=PROBE))
    verdicts = {tuple(line.split()[:2]): line.rpartition(": ")[2] for line in second[:2]}
    assert sorted(verdicts.values()) == [ALLOWED, DENIED]
    (mine,) = (place for place, verdict in verdicts.items() if verdict == ALLOWED)
    taken = site.cluster.on_node("login", ["scontrol", "--details", "show", "job", str(first)])
    assert f"Nodes={mine[0]} " not in taken.stdout or f"(IDX:{mine[1]})" not in taken.stdout


def test_another_coordinator_goes_on_where_a_killed_one_ended(wide_site: Site) -> None:
    site = wide_site
    site.lend(2)
    pid = site.cluster.status().processes["coordinator"]
    started = read_start_ticks(pid)
    os.kill(pid, signal.SIGSTOP)
    job = site.sbatch("bob", "--bubbles=4", script=PROBE)
    # As if it had died between the pin and the release.
    pin = ["NumNodes=2", "NumTasks=4", "MinCPUsNode=2", "ReqNodeList=n1,n2", "Gres=bubble:2"]
    done = site.cluster.on_node("login", ["scontrol", "update", f"JobId={job}", *pin])
    assert done.returncode == 0, done.stderr
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    site.wait(lambda: read_start_ticks(pid) != started)
    lock = site.cluster.spec.directory / "test.lock"
    argv = [sys.executable, "-m", "slurm_plugin.coordinator", "--once", f"--lock={lock}"]
    done = site.cluster.on_node("login", argv)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"hydro: event=release job={job}" in done.stderr
    assert site.output(job)[4] == "tasks 4"
