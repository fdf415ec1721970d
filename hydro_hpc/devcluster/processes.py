"""Starting the cluster's processes inside its namespaces, and knowing them again.

A process of ours is known by pid and start time, never by name. It is started as an orphan with its
own session, so it outlives the command that started it; it is ended through its cgroup
(`cgroups.py`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hydro_hpc.errors import SlurmError
from hydro_hpc.identity import Identity, is_alive, read_boot_id, read_start_ticks

# Joins the cgroups named before `--`, then becomes the rest of its arguments.
JOIN: Final = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; '
EXEC: Final = 'exec "$@"'
# Leaves the program behind as an orphan and prints its pid.
DETACH: Final = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'
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
        raise SlurmError(f"{argv[0]} ended at once: {last_line(log)}; see {log}")
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


def last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "no log"
    return next((line for line in reversed(lines) if line.strip()), "nothing was logged")
