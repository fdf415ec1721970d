"""Jobs of the shared cluster by text: submitted, watched, all ended."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable

from hydro_hpc.devcluster import Cluster

WAIT_S = 20.0

# Lists the processes of a user in all steps that srun started; runs as any user.
STEP_PROCESSES = """
for file in $(find /sys/fs/cgroup -path '*/step_[0-9]*' -name cgroup.procs); do
    for pid in $(cat $file 2>/dev/null); do
        [ "$(stat -c %U /proc/$pid 2>/dev/null)" = USER ] && echo $pid
    done
done | sort -u
"""

# Steps, batch scripts, then the jobs: who is only cancelled has Slurm's KillWait to end by itself,
# and a KILL for a whole job is no more than that.
KILL = """
squeue -h -s -p PARTITION -o %i | xargs -r scancel -s KILL
scancel -s KILL -b -p PARTITION
scancel -p PARTITION
"""


class Jobs:
    """Submits, watches and ends jobs; every wait has a limit and says what it saw last."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def submit(self, *arguments: str, user: str = "alice") -> int:
        done = self.try_submit(*arguments, user=user)
        assert done.returncode == 0, done.stderr
        found = re.search(r"Submitted batch job (\d+)", done.stdout)
        assert found, done.stdout
        return int(found[1])

    def try_submit(
        self, *arguments: str, user: str = "alice", program: str = "sbatch"
    ) -> subprocess.CompletedProcess[str]:
        return self.cluster.run([program, *arguments], user=user, timeout_s=60)

    def script(self, user: str, name: str, text: str) -> str:
        """Writes a program into a user's home; returns its path."""
        path = self.cluster.home(user) / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def text(self, user: str, name: str) -> str:
        path = self.cluster.home(user) / name
        return path.read_text() if path.exists() else ""

    def fields(self, job: int) -> dict[str, str]:
        """Returns what `scontrol show job` says, as root."""
        done = self.cluster.on_node("login", ["scontrol", "show", "job", "-o", str(job)])
        return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)

    def state(self, job: int) -> str:
        return self.fields(job).get("JobState", "")

    def place(self, job: int, node: str, gres: str) -> None:
        """Pins and releases a held gang, as the coordinator does."""
        changes = ["NumNodes=1", "NumTasks=1", f"ReqNodeList={node}", f"gres={gres}"]
        for command in (["update", f"JobId={job}", *changes], ["release", str(job)]):
            done = self.cluster.on_node("login", ["scontrol", *command])
            assert done.returncode == 0, done.stderr

    def on_node(self, node: str, script: str) -> str:
        return self.cluster.on_node(node, ["/bin/sh", "-c", script]).stdout

    def lane(self, node: str, index: int = 0) -> set[str]:
        """Returns the names of a lane's files."""
        return set(self.on_node(node, f"ls /run/hydro/gpu{index} 2>/dev/null").split())

    def step_processes(self, node: str, user: str) -> list[str]:
        """Returns the pids of a user's processes in the steps on a node; needs cgroups."""
        return self.on_node(node, STEP_PROCESSES.replace("USER", user)).split()

    def kill_slurmstepd(self, node: str, job: int) -> None:
        """Kills what watches the job's first srun step; found in this node's own cgroups."""
        find = f"find /sys/fs/cgroup -path '*/job_{job}/step_0*' -name cgroup.procs"
        script = f"""
        for pid in $(cat $({find}) | sort -u); do
            [ "$(cat /proc/$pid/comm)" = slurmstepd ] && kill -KILL $pid && echo killed
        done"""
        assert "killed" in self.on_node(node, script)

    def wait(self, condition: Callable[[], bool], *, what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s\n{self._queue()}"
            time.sleep(0.05)

    def wait_state(self, job: int, *states: str) -> None:
        self.wait(lambda: self.state(job) in states, what=f"job {job} becomes {states}")

    def wait_text(self, user: str, name: str, part: str) -> None:
        self.wait(lambda: part in self.text(user, name), what=f"{part!r} in {user}'s {name}")

    def _queue(self) -> str:
        return self.on_node("login", "squeue -o '%i %P %u %T %r %N'")

    def end_tenants(self) -> None:
        """Kills all gangs and waits until their lanes are free; whoever lends goes on."""
        self.on_node("login", KILL.replace("PARTITION", "bubble"))
        self.wait(lambda: " bubble " not in self._queue(), what="all gangs end")
        nodes = self.cluster.spec.node_names
        self.wait(lambda: not any("tenant" in self.lane(node) for node in nodes), what="lanes")

    def end_all(self) -> None:
        """Kills everything and waits until the nodes are clean."""
        for partition in ("main", "bubble"):
            self.on_node("login", KILL.replace("PARTITION", partition))
        self.wait(lambda: len(self._queue().splitlines()) == 1, what="all jobs end")
        self.wait(self._epilogs_are_done, what="epilogs")

    def _epilogs_are_done(self) -> bool:
        nodes = self.cluster.spec.node_names
        return not any(self.on_node(node, "ls /run/hydro/jobs 2>/dev/null") for node in nodes)
