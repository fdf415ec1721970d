"""Starting the cluster's processes inside its namespaces, and knowing them again.

A process of ours is known by pid and start time, never by name. It is started as an orphan with its
own session, so it outlives the command that started it. All of a cluster is found and ended through
its cgroups and its mount namespaces, whatever its processes forked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from hydro_hpc.errors import SlurmError
from hydro_hpc.identity import Identity, is_alive, read_boot_id, read_start_ticks

# Joins the cgroups named before `--`, then becomes the rest of its arguments.
JOIN: Final = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; '
EXEC: Final = 'exec "$@"'
# Leaves the program behind as an orphan and prints its pid.
DETACH: Final = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'
END_S: Final = 10.0
END_POLL_S: Final = 0.01
NUM_LAST_WORDS: Final = 3  # complaints; the cause usually stands before the fatal one
ROOT_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/",
}


def start_detached(argv: list[str], *, log: Path) -> Identity:
    """Starts a program that outlives this one, and returns who it is.

    Raises SlurmError if it has ended already; its output is in `log`.
    """
    done = subprocess.run(
        ["/bin/sh", "-c", DETACH, "sh", str(log), *argv],
        capture_output=True,
        text=True,
        check=True,
        env=ROOT_ENVIRONMENT,
        cwd="/",
    )
    pid = int(done.stdout)
    start_ticks = read_start_ticks(pid)
    if start_ticks is None:
        raise SlurmError(f"{argv[0]} ended at once: {last_words(log)}; see {log}")
    return Identity(pid, read_boot_id(), start_ticks)


def entering(holder: Identity, cgroups: list[Path]) -> list[str]:
    """Returns the command prefix that runs a program in a holder's namespaces and cgroups.

    Raises SlurmError if the holder is gone.
    """
    if not is_alive(holder):
        raise SlurmError("the cluster is not running any more; run: hydro cluster up")
    enter = ["nsenter", f"--target={holder.pid}", "--mount", "--uts", "--cgroup", "--"]
    join = ["/bin/sh", "-c", JOIN + EXEC, "sh", *map(str, cgroups), "--"]
    return [*join, *enter]


def as_user(user: str, *, cwd: Path, environment: Mapping[str, str]) -> list[str]:
    """Returns the command prefix that becomes a user, in `cwd`, with this environment alone."""
    assignments = [f"{name}={value}" for name, value in environment.items()]
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    return [*become, "env", "-i", f"--chdir={cwd}", *assignments]


def mount_namespaces(identities: Iterable[Identity]) -> set[int]:
    """Returns the numbers of the mount namespaces that live processes of ours are in."""
    return {
        number
        for identity in identities
        if is_alive(identity) and (number := _mount_namespace(identity.pid)) is not None
    }


def processes_in(namespaces: set[int]) -> set[int]:
    """Returns the pids of all processes in these mount namespaces."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()] if namespaces else []
    return {pid for pid in pids if _mount_namespace(pid) in namespaces}


def _mount_namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return None


def end_processes(find: Callable[[], set[int]], *, thaw: Callable[[], None]) -> None:
    """Kills whatever `find` returns until that is nothing.

    Raises SlurmError if something outlives SIGKILL.
    """
    deadline = time.monotonic() + END_S
    while pids := find():
        thaw()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SlurmError(
                f"cluster processes {sorted(pids)} do not end on SIGKILL; see what they wait for "
                "in /proc/<pid>/stack, then run: hydro cluster down"
            )
        time.sleep(END_POLL_S)


def last_words(log: Path) -> str:
    """Returns the last complaints of a log, else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    complaints = [line for line in lines if "error" in line.lower() or "fatal:" in line]
    told = complaints[-NUM_LAST_WORDS:] or lines[-1:]
    return "; ".join(told) or "nothing was logged"
