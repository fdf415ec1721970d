"""The processes of a Slurm step: which they are, and how to end them for certain.

A step is named by its cgroup's path as /proc/<pid>/cgroup shows it, cut at `step_…`; the same
path is looked for in every mounted hierarchy, so cgroup v1 and v2 and all of Slurm's layouts are
one case. Where Slurm tracks processes without cgroups the path is empty: then a step is its
first process, that one's session and descendants; what left both is not found. `slurmstepd`
lives in the same cgroups and is spared: it must report the step's end. Standard library only,
any Python from 3.9: it runs as root in prologs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

from hydro_hpc.identity import read_start_ticks


class Step(NamedTuple):
    """A step on this node: its cgroup ("" = Slurm uses none) and its first process."""

    cgroup: str
    first_pid: int
    first_start_ticks: int


def step_of(pid: int) -> Step:
    """Returns the step that `pid`, its first process, belongs to."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
        cgroup = step_cgroup(file.read())
    return Step(cgroup, pid, read_start_ticks(pid) or 0)


def step_cgroup(proc_cgroup: str) -> str:
    """Returns the step's path in the text of a /proc/<pid>/cgroup, or "" without one; pure."""
    for line in proc_cgroup.splitlines():
        parts = line.split(":", 2)[-1].split("/")
        steps = [index for index, part in enumerate(parts) if part.startswith("step_")]
        if steps and ".." not in parts:
            return "/".join(parts[: steps[0] + 1])
    return ""


def cgroup_dirs(path: str) -> list[str]:
    """Returns the directories of a cgroup path in all mounted hierarchies."""
    if not path.startswith("/") or ".." in path.split("/"):
        return []
    dirs = []
    for root, mount in _cgroup_mounts():
        below = path if root == "/" else path[len(root) :] if path.startswith(root + "/") else ""
        if below and os.path.isdir(mount + below):
            dirs.append(mount + below)
    return dirs


def _cgroup_mounts() -> Iterator[tuple[str, str]]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            facts, _, kind = line.partition(" - ")
            if kind.split(" ", 1)[0] in ("cgroup", "cgroup2"):
                fields = facts.split(" ")
                yield fields[3], fields[4]


def members(step: Step) -> set[int]:
    """Returns the pids that run in the step, without slurmstepd, zombies and this process."""
    found = _in_cgroups(cgroup_dirs(step.cgroup)) if step.cgroup else _in_tree(step)
    return {pid for pid in found if pid != os.getpid() and _counts(pid)}


def _in_cgroups(dirs: list[str]) -> set[int]:
    found: set[int] = set()
    for top in dirs:
        for folder, _, _ in os.walk(top):
            # A cgroup that has just been removed has no processes.
            with (
                contextlib.suppress(OSError),
                open(f"{folder}/cgroup.procs", encoding="ascii") as file,
            ):
                found.update(int(line) for line in file)
    return found


def _in_tree(step: Step) -> set[int]:
    stats = {
        int(name): _parent_and_session(int(name)) for name in os.listdir("/proc") if name.isdigit()
    }
    start_ticks = read_start_ticks(step.first_pid)
    if start_ticks not in (None, step.first_start_ticks):
        return set()  # a new process has its number, which is free only when its session is empty
    found = {pid for pid, (_, session) in stats.items() if session == step.first_pid}
    if start_ticks is not None:
        found.add(step.first_pid)
    while True:
        more = {pid for pid, (parent, _) in stats.items() if parent in found} - found
        if not more:
            return found
        found |= more


def _parent_and_session(pid: int) -> tuple[int, int]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[1]), int(fields[3])


def _counts(pid: int) -> bool:
    """Says whether a process still runs and is not root's slurmstepd."""
    if read_start_ticks(pid) is None:
        return False
    try:
        exe = os.path.basename(os.readlink(f"/proc/{pid}/exe")).split(" ")[0]
        return exe != "slurmstepd" or _real_uid(pid) != 0
    except OSError:
        return read_start_ticks(pid) is not None


def _real_uid(pid: int) -> int:
    """Not the owner of /proc/<pid>: that is root for any process that may not be dumped."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Uid:"))


def ask_to_end(step: Step) -> None:
    """Sends SIGTERM to the step's first process, if that very process still runs."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(step.first_pid)
        try:
            if read_start_ticks(step.first_pid) == step.first_start_ticks:
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        finally:
            os.close(pidfd)


def kill_once(step: Step) -> None:
    """Sends SIGKILL to all members, frozen meanwhile so that no child is born behind the list."""
    dirs = cgroup_dirs(step.cgroup)
    _freeze(dirs, frozen=True)
    for pid in members(step):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _freeze(dirs, frozen=False)  # on v1 a frozen process dies only once it is thawed


def _freeze(dirs: list[str], *, frozen: bool) -> None:
    """Best effort: v1's freezer, which holds no slurmstepd, and v2's folder of user processes."""
    for top in dirs:
        for name, text in (
            (f"{top}/freezer.state", "FROZEN" if frozen else "THAWED"),
            (f"{top}/user/cgroup.freeze", "1" if frozen else "0"),
        ):
            with contextlib.suppress(OSError), open(name, "w", encoding="ascii") as file:
                file.write(text)
