"""The namespaces of a cluster as plans (data), for the holder process to carry out.

Every namespace has its own host name, /etc/{passwd,group,hosts}, /etc/slurm, /run and cgroup root.
A node has, beyond that, /run/hydro, /dev with its device nodes, /dev/shm and /tmp of its own.
Networking, process ids and all other files are the host's.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydro_hpc.devcluster.cgroups import CGROUP_ROOT, Cgroups
from hydro_hpc.devcluster.spec import LOGIN, PAGE_DIR, ClusterSpec, Layout
from hydro_hpc.devcluster.visible import needed_paths, roots_to_cover, without_nested
from hydro_hpc.errors import SlurmError

Operation = list[Any]
Plan = dict[str, Any]

HOST_ETC_FILES: Final = ("passwd", "group", "hosts", "nsswitch.conf")
INIT_CGROUP: Final = "init_cgroup"
PLAIN_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_PREFIX: Final = "hydro"
LOCAL_MAJORS: Final[tuple[int, ...]] = (
    60,
    61,
    62,
    63,
    *range(120, 128),
)  # the kernel's "local/experimental use"
DEV_SYMLINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CharDevice:
    """A character device node to make. `major:minor` of no driver gives ENXIO on open: allowed."""

    name: str
    major: int
    minor: int


def free_major(proc_devices: str) -> int:
    """Returns a local major number that no driver has, from the text of /proc/devices."""
    characters = proc_devices.partition("Block devices:")[0]
    taken = {line.split()[0] for line in characters.splitlines() if line[:4].strip().isdigit()}
    for major in LOCAL_MAJORS:
        if str(major) not in taken:
            return major
    raise SlurmError("every local device number of this kernel is taken; unload a driver")


def device_name(index: int) -> str:
    return f"{DEVICE_PREFIX}{index}"


def host_devices() -> list[CharDevice]:
    """Returns the ordinary devices of the host that a node has too."""
    found = []
    for name in PLAIN_DEVICES:
        status = os.stat(f"/dev/{name}")
        if stat.S_ISCHR(status.st_mode):
            major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
            found.append(CharDevice(name=name, major=major, minor=minor))
    return found


def node_devices(spec: ClusterSpec, name: str, major: int) -> list[CharDevice]:
    """Returns /dev/hydro0.. of one node; no two nodes share a number."""
    first = spec.node_names.index(name) * spec.devices_per_node
    return [
        CharDevice(name=device_name(index), major=major, minor=first + index)
        for index in range(spec.devices_per_node)
    ]


def page_dir_mib(spec: ClusterSpec) -> int:
    """Size of a node's /run/hydro: about 2 MiB of pages per lane, and as much again."""
    return 4 + 4 * spec.devices_per_node


def covering(spec: ClusterSpec, private: dict[str, str]) -> Operation:
    """Covers what must be private (path -> tmpfs options) and what users could not traverse."""
    needed = without_nested([*needed_paths(), spec.directory])
    roots = {str(root): "mode=0755,size=1m" for root in roots_to_cover(needed)} | private
    outer = without_nested(map(Path, roots))
    keep = [str(p) for p in needed if any(p.is_relative_to(root) for root in outer)]
    return ["cover", [[str(root), roots[str(root)]] for root in outer], keep]


def cgroup_mounts(layout: Layout, cgroups: Cgroups) -> list[Operation]:
    """Mounts the hierarchies afresh, so that their roots are the namespace's own cgroups.

    On v2, Slurm from 23.11 looks for the root at init's cgroup, which is outside of the namespace.
    """
    if cgroups.support.version == 0:
        return []
    root = str(CGROUP_ROOT)
    if cgroups.support.version == 2:
        init_is_at_root = ["bind", str(layout.host_etc / INIT_CGROUP), "/proc/1/cgroup"]
        return [["detach", root], ["cgroup", root, ""], init_is_at_root]
    operations: list[Operation] = [["detach", root], ["tmpfs", root, "mode=0755,size=1m"]]
    for controller in cgroups.support.v1_controllers:
        path = str(CGROUP_ROOT / controller)
        operations += [["mkdir", path, 0o755], ["cgroup", path, controller]]
    return operations


def common_operations(spec: ClusterSpec, name: str, cgroups: Cgroups) -> list[Operation]:
    layout = Layout(spec.directory)
    return [
        ["hostname", name],
        ["bind", str(layout.etc), "/etc/slurm"],
        *[["bind", str(layout.host_etc / file), f"/etc/{file}"] for file in HOST_ETC_FILES],
        *cgroup_mounts(layout, cgroups),
    ]


def dev_operations(devices: list[CharDevice]) -> list[Operation]:
    """Fills a fresh /dev; /dev/pts stays the host's."""
    return [
        ["cover", [["/dev", "mode=0755,size=1m"]], ["/dev/pts"]],
        ["mkdir", "/dev/shm", 0o1777],
        ["tmpfs", "/dev/shm", "mode=1777"],
        *[["symlink", f"/dev/{name}", target] for name, target in DEV_SYMLINKS],
        *[["mknod", f"/dev/{d.name}", d.major, d.minor, 0o666] for d in devices],
    ]


def login_plan(spec: ClusterSpec, cgroups: Cgroups) -> Plan:
    operations = [
        covering(spec, {"/run": "mode=0755,size=16m"}),
        *common_operations(spec, LOGIN, cgroups),
    ]
    return _plan(LOGIN, cgroups, operations)


def node_plan(
    spec: ClusterSpec, name: str, cgroups: Cgroups, *, major: int, plain: list[CharDevice]
) -> Plan:
    """`major`: of the made devices; `plain`: the host's ordinary devices (`host_devices`)."""
    private = {"/run": "mode=0755,size=16m", "/tmp": "mode=1777"}
    operations = [
        *dev_operations([*plain, *node_devices(spec, name, major)]),
        covering(spec, private),
        ["mkdir", PAGE_DIR, 0o755],
        ["tmpfs", PAGE_DIR, f"mode=0755,size={page_dir_mib(spec)}m"],
        *common_operations(spec, name, cgroups),
        ["bind", str(Layout(spec.directory).lanes_conf(name)), "/etc/slurm/hydro/lanes.conf"],
    ]
    return _plan(name, cgroups, operations)


def _plan(member: str, cgroups: Cgroups, operations: list[Operation]) -> Plan:
    return {
        "namespace_roots": [str(path) for path in cgroups.namespace_roots(member)],
        "joined_by_daemons": [str(path) for path in cgroups.joined_by_daemons(member)],
        "operations": operations,
    }
