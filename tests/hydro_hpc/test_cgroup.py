"""Where a process's cgroup is found, from texts of hosts and containers of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hydro_hpc.cgroup import find_cgroups, own_cgroups

# A hybrid host: a controller or two to a hierarchy, and v2 without any.
V1_PROC = """\
9:name=systemd:/
6:freezer:/
4:memory:/slurm/uid_0/job_7/step_0
2:cpu,cpuacct:/slurm
0::/
"""
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2_PROC = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"
V2_MOUNTS = """\
24 30 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:2 - sysfs sysfs rw
29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""


def directories(controller: str, proc_cgroup: str, mountinfo: str) -> list[tuple[int, str]]:
    found = find_cgroups(controller, proc_cgroup, mountinfo)
    return [(cgroup.version, str(cgroup.directory)) for cgroup in found]


def job_mount(root: str, version: int) -> str:
    kind = "cgroup cgroup rw,memory" if version == 1 else "cgroup2 cgroup2 rw"
    return f"41 31 0:38 {root} /sys/fs/cgroup rw - {kind}\n"


@pytest.mark.parametrize(
    ("controller", "of_v1"),
    [
        ("memory", "memory/slurm/uid_0/job_7/step_0"),
        ("freezer", "freezer"),
        ("cpuacct", "cpu,cpuacct/slurm"),
    ],
)
def test_hybrid_host_has_the_controllers_own_hierarchy_and_then_the_second_version(
    controller: str, of_v1: str
) -> None:
    assert directories(controller, V1_PROC, V1_MOUNTS) == [
        (1, f"/sys/fs/cgroup/{of_v1}"),
        (2, "/sys/fs/cgroup/unified"),
    ]


def test_controller_that_is_only_part_of_anothers_name_is_not_meant() -> None:
    assert directories("cpuac", V1_PROC, V1_MOUNTS) == [(2, "/sys/fs/cgroup/unified")]


def test_second_version_has_one_hierarchy_for_all_controllers() -> None:
    [memory] = find_cgroups("memory", V2_PROC, V2_MOUNTS)
    assert [memory] == find_cgroups("freezer", V2_PROC, V2_MOUNTS)
    assert memory.path == "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
    assert memory.directory == Path(f"/sys/fs/cgroup{memory.path}")


@pytest.mark.parametrize(("version", "line"), [(1, "4:memory:"), (2, "0::")])
def test_mount_of_a_part_shows_what_is_below_its_root(version: int, line: str) -> None:
    mounts = job_mount("/slurm/job_1", version)
    [cgroup] = find_cgroups("memory", f"{line}/slurm/job_1/step_0\n", mounts)
    assert cgroup.path == "/slurm/job_1/step_0"
    assert cgroup.directories() == [Path("/sys/fs/cgroup/step_0"), Path("/sys/fs/cgroup")]
    assert directories("memory", f"{line}/slurm/job_1\n", mounts) == [(version, "/sys/fs/cgroup")]


@pytest.mark.parametrize(("version", "line"), [(1, "4:memory:"), (2, "0::")])
@pytest.mark.parametrize("path", ["/slurm/job_12", "/slurm/job_12/step_0", "/slurm", "/"])
def test_mount_of_another_part_shows_nothing_even_if_the_names_begin_alike(
    version: int, line: str, path: str
) -> None:
    assert find_cgroups("memory", f"{line}{path}\n", job_mount("/slurm/job_1", version)) == []


def test_process_outside_its_cgroup_namespace_is_found_nowhere() -> None:
    assert find_cgroups("memory", "4:memory:/../other\n0::/../other\n", V1_MOUNTS) == []


def test_cgroup_of_several_mounts_is_found_in_each() -> None:
    mounts = V2_MOUNTS + V2_MOUNTS.splitlines()[1].replace("/sys/fs/cgroup", "/container") + "\n"
    found = find_cgroups("memory", "0::/job_7\n", mounts)
    assert [str(cgroup.mount) for cgroup in found] == ["/sys/fs/cgroup", "/container"]


@pytest.mark.processes
def test_own_cgroup_holds_this_process() -> None:
    found = own_cgroups("memory")
    if not found:
        pytest.skip("no cgroup of this process is mounted here")
    for cgroup in found:
        assert str(os.getpid()) in (cgroup.directory / "cgroup.procs").read_text().split()
