"""The process that holds one namespace of the cluster: it carries out a plan, then sleeps for ever.

Started as `python -I -S holder.py PLAN.json`, standard library only, as root. The plan is data
(`namespaces.py` makes it): cgroups to join, then operations, each `[name, argument...]`. When the
last process in the namespace ends, the kernel takes all of its mounts away.
Prints READY when the namespace can be entered.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
MS_NOSUID = 2
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

READY = "ready\n"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(result, f"mount {kind or source} on {target}")


def _hostname(name: str) -> None:
    socket.sethostname(name)


def _mkdir(path: str, mode: int) -> None:
    os.makedirs(path, exist_ok=True)
    os.chmod(path, mode)


def _tmpfs(path: str, options: str) -> None:
    _mount("hydro", path, "tmpfs", MS_NOSUID, options)


def _detach(path: str) -> None:
    """Takes away what is mounted on and below `path`."""
    _check(_libc.umount2(path.encode(), MNT_DETACH), f"detach {path}")


def _cgroup(path: str, controller: str) -> None:
    """Mounts a v1 hierarchy, or the unified one if `controller` is empty, from our cgroup down."""
    _mount("cgroup", path, "cgroup" if controller else "cgroup2", MS_NOSUID, controller)


def _bind(source: str, target: str) -> None:
    _mount(source, target, "", MS_BIND | MS_REC, "")


def _mknod(path: str, major: int, minor: int, mode: int) -> None:
    os.mknod(path, stat.S_IFCHR | mode, os.makedev(major, minor))
    os.chmod(path, mode)


def _symlink(path: str, target: str) -> None:
    os.symlink(target, path)


def _cover(roots: list[list[str]], keep: list[str]) -> None:
    """Puts an empty tmpfs on each root (path, options); of what that hides only `keep` is seen."""
    kept = [(path, os.open(path, os.O_PATH)) for path in keep]
    for root, options in roots:
        _tmpfs(root, options)
    for path, fd in kept:
        is_dir = stat.S_ISDIR(os.fstat(fd).st_mode)
        os.makedirs(path if is_dir else os.path.dirname(path), exist_ok=True)
        if not is_dir:
            Path(path).touch()
        _bind(f"/proc/self/fd/{fd}", path)
        os.close(fd)


OPERATIONS: dict[str, Callable[..., None]] = {
    "bind": _bind,
    "cgroup": _cgroup,
    "cover": _cover,
    "detach": _detach,
    "hostname": _hostname,
    "mkdir": _mkdir,
    "mknod": _mknod,
    "symlink": _symlink,
    "tmpfs": _tmpfs,
}


def _join(cgroups: list[str]) -> None:
    for directory in cgroups:
        Path(directory, "cgroup.procs").write_text(str(os.getpid()))


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    os.umask(0o022)
    os.chdir("/")
    _join(plan["namespace_roots"])
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWCGROUP), "unshare")
    _join(plan["joined_by_daemons"])
    _mount("none", "/", "", MS_REC | MS_PRIVATE, "")
    for name, *arguments in plan["operations"]:
        OPERATIONS[name](*arguments)
    os.write(1, READY.encode())
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.execv("/bin/sleep", ["sleep", "infinity"])


if __name__ == "__main__":
    main()
