"""The cluster's own versions of the host's files: its users and host names exist nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hydro_hpc.devcluster.namespaces import INIT_CGROUP
from hydro_hpc.devcluster.spec import LOGIN, USERS, ClusterSpec, Layout

FIRST_UID: Final = 60700  # 60578-61183 is used by nobody: not useradd, not systemd
LAST_UID: Final = 61183
NSSWITCH: Final = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n"


def free_uids(passwd: str, group: str, count: int) -> list[int]:
    """Returns ids that neither a user nor a group of the host's files has."""
    taken = {int(line.split(":")[2]) for line in _entries(passwd) + _entries(group)}
    free = [uid for uid in range(FIRST_UID, LAST_UID + 1) if uid not in taken]
    return free[:count]


def passwd_text(host: str, uids: dict[str, int], layout: Layout) -> str:
    """Returns the host's passwd with the cluster's users instead of any of the same name."""
    own = [f"{user}:x:{uid}:{uid}::{layout.home(user)}:/bin/sh" for user, uid in uids.items()]
    return _replaced(host, uids, own)


def group_text(host: str, uids: dict[str, int]) -> str:
    return _replaced(host, uids, [f"{user}:x:{uid}:" for user, uid in uids.items()])


def hosts_text(spec: ClusterSpec) -> str:
    names = " ".join(("localhost", LOGIN, *spec.node_names))
    return f"127.0.0.1 {names}\n::1 localhost ip6-localhost\n"


def write_host_etc(spec: ClusterSpec) -> dict[str, int]:
    """Writes the files, and returns the users' uids."""
    layout = Layout(spec.directory)
    passwd = Path("/etc/passwd").read_text()
    group = Path("/etc/group").read_text()
    uids = dict(zip(USERS, free_uids(passwd, group, len(USERS)), strict=True))
    texts = {
        "passwd": passwd_text(passwd, uids, layout),
        "group": group_text(group, uids),
        "hosts": hosts_text(spec),
        "nsswitch.conf": NSSWITCH,
        INIT_CGROUP: "0::/\n",
    }
    layout.host_etc.mkdir(exist_ok=True)
    for name, text in texts.items():
        (layout.host_etc / name).write_text(text)
    return uids


def _entries(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.count(":") >= 3 and not line.startswith("#")]


def _replaced(host: str, uids: dict[str, int], own: list[str]) -> str:
    others = [line for line in _entries(host) if line.split(":")[0] not in uids]
    return "\n".join([*others, *own]) + "\n"
