"""The embedded cluster, for real: daemons, namespaces, device cgroups, MPI, nothing left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hydro_hpc.devcluster import Cluster, ClusterSpec, files, namespaces
from hydro_hpc.devcluster.cgroups import CGROUP_ROOT, detect_cgroups
from hydro_hpc.devcluster.slurm_conf import HostFacts, slurm_conf
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.devcluster.visible import needed_paths
from hydro_hpc.errors import ConfigError, SlurmError
from hydro_hpc.identity import read_start_ticks

pytestmark = pytest.mark.slurm

OPEN_DEVICES = """
import errno, glob, os
for path in sorted(glob.glob("/dev/hydro*")):
    try:
        os.open(path, os.O_RDWR)
    except OSError as error:
        print(path, errno.errorcode[error.errno])
"""
NO_DRIVER = "ENXIO"  # the open reached the (absent) driver: the device cgroup allowed it
DENIED = "EPERM"

needs_device_cgroup = pytest.mark.skipif(
    not detect_cgroups().constrains_devices, reason="this kernel has no device cgroup"
)


def traces(directory: Path) -> dict[str, object]:
    """Whatever a cluster could leave on the host."""
    name = ClusterSpec(directory=directory).cgroup_name
    cgroups = [path for path in CGROUP_ROOT.rglob(name) if path.is_dir()]
    return {
        "mounts": sorted(
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ),
        "cgroups": sorted(map(str, cgroups)),
        "devices": sorted(os.listdir("/dev")),
        "run": sorted(os.listdir("/run")),
        "etc": {name: Path(f"/etc/{name}").read_bytes() for name in ("passwd", "group", "hosts")},
        "etc_slurm": sorted(map(str, Path("/etc/slurm").rglob("*"))),
        "hostname": socket.gethostname(),
        "exists": directory.exists(),
    }


def run(cluster: Cluster, *argv: str, user: str = "alice") -> str:
    done = cluster.run(argv, user=user, timeout_s=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_idle(cluster: Cluster) -> None:
    deadline = time.monotonic() + 30
    while set(cluster.status().nodes.values()) != {"idle"}:
        assert time.monotonic() < deadline, cluster.status()
        time.sleep(0.05)


def listening_ports(cluster: Cluster) -> list[int]:
    text = run(cluster, "scontrol", "show", "config")
    first = int(text.partition("SlurmctldPort")[2].split()[1])
    return list(range(first, first + 1 + cluster.spec.nodes))


def kill_and_wait(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert select.select([descriptor], [], [], 10)[0]
    os.close(descriptor)


def kill_everything(cluster: Cluster) -> None:
    for pid in cluster.status().processes.values():
        kill_and_wait(pid)


def test_up_runs_a_job_on_every_node_and_down_leaves_nothing(cluster_directory: Path) -> None:
    before = traces(cluster_directory)
    cluster = Cluster(ClusterSpec(directory=cluster_directory))
    status = cluster.up()
    assert status.state == "up"
    assert status.nodes == {"n1": "idle", "n2": "idle"}
    assert sorted(run(cluster, "srun", "-N2", "hostname").split()) == ["n1", "n2"]
    ports = listening_ports(cluster)
    job = run(cluster, "sbatch", "--parsable", "-N2", "--wrap", "srun -N2 sleep 300").strip()
    pids = dict(status.processes)
    run(cluster, "scontrol", "show", "job", job)

    cluster.down()

    assert traces(cluster_directory) == before
    assert [name for name, pid in pids.items() if read_start_ticks(pid) is not None] == []
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert cluster.status().state == "down"


def test_up_of_a_running_cluster_changes_nothing(cluster: Cluster) -> None:
    before = cluster.status().processes
    after = cluster.up()
    assert (after.state, after.processes) == ("up", before)


def test_up_with_other_numbers_is_refused_while_the_cluster_runs(cluster: Cluster) -> None:
    other = ClusterSpec(nodes=1, directory=cluster.spec.directory)
    with pytest.raises(ConfigError, match=r"another cluster .* runs in"):
        Cluster(other).up()


def test_up_after_everything_was_killed_starts_afresh_and_keeps_homes(
    cluster_directory: Path,
) -> None:
    cluster = Cluster(ClusterSpec(nodes=1, directory=cluster_directory))
    cluster.up()
    (cluster.home("alice") / "kept").write_text("kept")
    kill_everything(cluster)
    assert cluster.status().state == "stale"

    status = cluster.up()

    assert status.state == "up"
    assert run(cluster, "srun", "cat", "kept") == "kept"


def test_down_after_a_single_daemon_was_killed_leaves_nothing(cluster_directory: Path) -> None:
    before = traces(cluster_directory)
    cluster = Cluster(ClusterSpec(nodes=1, directory=cluster_directory))
    os.kill(cluster.up().processes["munged"], signal.SIGKILL)
    cluster.down()
    assert traces(cluster_directory) == before


def test_a_killed_daemon_can_be_restarted(cluster: Cluster) -> None:
    wait_idle(cluster)  # a job that is completing would wait long for the killed daemon's word
    pid = cluster.status().processes["slurmd.n2"]
    kill_and_wait(pid)
    assert cluster.status().missing == ["slurmd.n2"]
    cluster.restart("slurmd.n2")
    assert run(cluster, "srun", "-w", "n2", "hostname") == "n2\n"
    with pytest.raises(ConfigError, match=r"slurmd\.n2 runs"):
        cluster.restart("slurmd.n2")


@needs_device_cgroup
def test_only_a_job_with_a_gpu_can_open_the_device(cluster: Cluster) -> None:
    script = ["python", "-c", OPEN_DEVICES]
    assert run(cluster, "srun", "--gres=gpu:1", *script) == f"/dev/hydro0 {NO_DRIVER}\n"
    assert run(cluster, "srun", *script) == f"/dev/hydro0 {DENIED}\n"


def open_with_bubble(cluster: Cluster, index: int, *, user: str) -> str:
    """Runs OPEN_DEVICES in a job that is pinned to a bubble as the coordinator does it, by root."""
    script = cluster.home(user) / "open_devices.py"
    script.write_text(OPEN_DEVICES)
    output = cluster.home(user) / "opened.txt"
    command = ["--hold", "-w", "n1", "-o", str(output), "--wrap", f"python {script}"]
    job = run(cluster, "sbatch", "--parsable", *command, user=user).strip()
    for change in (["update", f"jobid={job}", f"gres=bubble:g{index}:1"], ["release", job]):
        assert cluster.on_node("login", ["scontrol", *change]).returncode == 0
    run(cluster, "srun", "--dependency", f"afterany:{job}", "true")
    return output.read_text()


@needs_device_cgroup
def test_a_bubble_opens_the_device_that_another_users_gpu_job_holds(cluster: Cluster) -> None:
    holder = cluster.popen(
        ["srun", "-w", "n1", "--gres=gpu:1", "sh", "-c", "echo holds; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holds\n"
    assert open_with_bubble(cluster, 0, user="bob") == f"/dev/hydro0 {NO_DRIVER}\n"
    holder.communicate("\n")


@needs_device_cgroup
def test_each_type_of_bubble_opens_its_own_device(cluster_directory: Path) -> None:
    cluster = Cluster(ClusterSpec(nodes=1, devices_per_node=2, directory=cluster_directory))
    cluster.up()
    for index in (0, 1):
        opened = open_with_bubble(cluster, index, user="bob")
        assert f"/dev/hydro{index} {NO_DRIVER}" in opened
        assert f"/dev/hydro{1 - index} {DENIED}" in opened


def test_nodes_see_their_own_page_directory_and_the_login_side_none(cluster: Cluster) -> None:
    assert cluster.on_node("n1", ["touch", "/run/hydro/mine"]).returncode == 0
    try:
        assert "mine" in run(cluster, "srun", "-w", "n1", "ls", "/run/hydro").split()
        assert "mine" not in run(cluster, "srun", "-w", "n2", "ls", "/run/hydro").split()
        assert run(cluster, "sh", "-c", "ls -d /run/hydro || true") == ""
        assert not Path("/run/hydro/mine").exists()
    finally:
        cluster.on_node("n1", ["rm", "/run/hydro/mine"])


def test_page_directory_is_limited_in_size(cluster: Cluster) -> None:
    done = cluster.on_node("n1", ["df", "--output=size", "-B1M", cluster.page_dir])
    assert 4 <= int(done.stdout.split()[1]) <= 16


def test_users_exist_only_inside_and_cannot_write_each_others_files(cluster: Cluster) -> None:
    assert run(cluster, "id", "-un", user="bob") == "bob\n"
    assert "bob" not in Path("/etc/passwd").read_text()
    theft = cluster.run(["touch", str(cluster.home("alice") / "theft")], user="bob")
    assert theft.returncode != 0
    kill = cluster.run(["kill", str(cluster.status().processes["munged"])], user="bob")
    assert kill.returncode != 0


def test_a_job_inherits_nothing_of_the_callers_environment(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRO_LEAK", "1")
    assert "HYDRO_LEAK" not in run(cluster, "srun", "env")


@pytest.mark.mpi
def test_mpi_ranks_on_both_nodes_find_each_other(cluster: Cluster) -> None:
    program = (
        "from mpi4py import MPI; import json, socket; comm = MPI.COMM_WORLD;"
        "print(json.dumps(comm.allgather([comm.rank, socket.gethostname()])))"
    )
    lines = run(cluster, "srun", "-N2", "--mpi=pmix", "python", "-c", program).splitlines()
    assert [json.loads(line) for line in lines] == [[[0, "n1"], [1, "n2"]]] * 2


def test_port_in_use_is_said_and_leaves_nothing(cluster_directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        spec = ClusterSpec(nodes=1, directory=cluster_directory, first_port=port)
        with pytest.raises(SlurmError, match=f"port {port} is in use"):
            Cluster(spec).up()
    assert not cluster_directory.exists()


def test_directory_with_other_files_is_refused_and_kept(cluster_directory: Path) -> None:
    cluster_directory.mkdir()
    (cluster_directory / "thesis.tex").write_text("")
    cluster = Cluster(ClusterSpec(directory=cluster_directory))
    for verb in (cluster.up, cluster.down):
        with pytest.raises(ConfigError, match="holds other files"):
            verb()
    (cluster_directory / "thesis.tex").unlink()


def test_command_in_a_cluster_that_is_down_says_so(cluster_directory: Path) -> None:
    with pytest.raises(SlurmError, match="run: hydro cluster up"):
        Cluster(ClusterSpec(directory=cluster_directory)).run(["true"])


def test_what_lies_below_a_closed_directory_is_read_in_all_namespaces(
    cluster_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, checkout = tmp_path / "closed", tmp_path / "closed" / "checkout"
    checkout.mkdir(parents=True)
    checkout.chmod(0o755)
    (checkout / "train.py").write_text("print('read')")
    (closed / "diary").write_text("")
    closed.chmod(0o700)
    needed = [*needed_paths(), checkout]
    monkeypatch.setattr(namespaces, "needed_paths", lambda: needed)
    cluster = Cluster(ClusterSpec(nodes=1, directory=cluster_directory))
    cluster.up()

    for where in ([], ["srun"]):
        assert run(cluster, *where, "python", str(checkout / "train.py")) == "read\n"
        assert run(cluster, *where, "ls", str(closed)) == "checkout\n"
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_daemon_that_does_not_start_is_told_with_its_last_words(
    cluster_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(spec: ClusterSpec, facts: HostFacts) -> str:
        return slurm_conf(spec, facts) + "NoSuchKey=1\n"

    cluster = Cluster(ClusterSpec(nodes=1, directory=cluster_directory))
    with monkeypatch.context() as patch:
        patch.setattr(files, "slurm_conf", broken)
        with pytest.raises(SlurmError, match=r"slurmctld ended .*NoSuchKey.*slurmctld\.out"):
            cluster.up()
    assert cluster.status().processes == {}
    assert sorted(os.listdir(cluster_directory)) == ["cluster.json", "log"]
    assert cluster.up().state == "up"


def test_two_ups_at_once_make_one_cluster(cluster_directory: Path) -> None:
    spec = ClusterSpec(nodes=1, directory=cluster_directory)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: Cluster(spec).up(), range(2))
    assert first.processes == second.processes
    assert first.state == second.state == "up"


def test_two_clusters_that_start_at_once_both_come_up(cluster_directory: Path) -> None:
    other_directory = cluster_directory.with_name(f"{cluster_directory.name}b")
    clusters = [
        Cluster(ClusterSpec(nodes=1, directory=directory))
        for directory in (cluster_directory, other_directory)
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            statuses = list(pool.map(Cluster.up, clusters))
        assert [status.state for status in statuses] == ["up", "up"]
        ports = [
            set(state.ports)
            for state in map(load_state, (cluster_directory, other_directory))
            if state
        ]
        assert len(set.union(*ports)) == 4
    finally:
        clusters[1].down()
