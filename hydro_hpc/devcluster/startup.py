"""Starting a cluster: one process after the other, each recorded before the next one starts."""

from __future__ import annotations

import functools
import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hydro_hpc.devcluster import holder
from hydro_hpc.devcluster.cgroups import Cgroups
from hydro_hpc.devcluster.daemons import (
    COORDINATOR,
    MUNGED,
    SLURMCTLD,
    Daemon,
    list_daemons,
)
from hydro_hpc.devcluster.namespaces import (
    Plan,
    free_major,
    host_devices,
    login_plan,
    node_plan,
)
from hydro_hpc.devcluster.processes import (
    ROOT_ENVIRONMENT,
    as_user,
    entering,
    last_words,
    start_detached,
)
from hydro_hpc.devcluster.requirements import find_program
from hydro_hpc.devcluster.spec import LOGIN, ClusterSpec, Layout
from hydro_hpc.devcluster.state import ClusterState
from hydro_hpc.errors import SlurmError

Condition = Callable[[], bool]

START_S: Final = 30.0
FIRST_TOGETHER: Final = 2  # munged and slurmctld come first; all others start at once
POLL_S: Final = 0.02


def start_all(state: ClusterState, cgroups: Cgroups, *, nodes_are_idle: Condition) -> None:
    """Starts holders and daemons. Raises SlurmError with the last words of what does not start."""
    cgroups.create([LOGIN, *state.spec.node_names])
    _start_holders(state, cgroups)
    daemons = list_daemons(state.spec)
    for daemon in daemons[:FIRST_TOGETHER]:
        wait_ready(state, daemon.name, start_daemon(state, cgroups, daemon))
    conditions = {
        daemon.name: start_daemon(state, cgroups, daemon) for daemon in daemons[FIRST_TOGETHER:]
    }
    for name, condition in conditions.items():
        wait_ready(state, name, condition)
    wait_ready(state, SLURMCTLD, nodes_are_idle)


def start_daemon(state: ClusterState, cgroups: Cgroups, daemon: Daemon) -> Condition:
    """Starts one daemon in its namespace, records it, and returns what tells that it is ready."""
    program = find_program(daemon.argv[0]) or daemon.argv[0]
    enter = entering(state.processes[daemon.member], cgroups.joined_by_daemons(daemon.member))
    become = (
        as_user(daemon.user, cwd=Path("/"), environment=ROOT_ENVIRONMENT) if daemon.user else []
    )
    log = Layout(state.spec.directory).log / f"{daemon.name}.out"
    logged_before = log.stat().st_size if log.exists() else 0
    command = [*enter, *become, program, *daemon.argv[1:]]
    state.processes[daemon.name] = start_detached(command, log=log)
    state.save()
    if daemon.name == MUNGED:
        path = str(Layout(state.spec.directory).munge_socket)
        return functools.partial(_accepts, socket.AF_UNIX, path)
    if daemon.name == COORDINATOR:
        return functools.partial(_says, log, "event=start", since=logged_before)
    port = state.ports[(LOGIN, *state.spec.node_names).index(daemon.member)]
    return functools.partial(_accepts, socket.AF_INET, ("127.0.0.1", port))


def wait_ready(
    state: ClusterState, what: str, condition: Condition, *, among: Sequence[str] = ()
) -> None:
    """Waits for a condition while processes live: all recorded ones, or those in `among`.

    Raises SlurmError with the last words of what ended, or of `what` after START_S.
    """
    deadline = time.monotonic() + START_S
    while not condition():
        if missing := [name for name in state.missing() if not among or name in among]:
            story = _story(state, missing[0])
            raise SlurmError(f"{missing[0]} ended while it or the cluster started: {story}")
        if time.monotonic() > deadline:
            raise SlurmError(f"{what} is not ready after {START_S:.0f} s: {_story(state, what)}")
        time.sleep(POLL_S)


def _start_holders(state: ClusterState, cgroups: Cgroups) -> None:
    layout = Layout(state.spec.directory)
    for name, plan in _plans(state.spec, cgroups).items():
        file = layout.root / f"plan.{name}.json"
        file.write_text(json.dumps(plan))
        argv = [sys.executable, "-I", "-S", holder.__file__, str(file)]
        state.processes[name] = start_detached(argv, log=layout.log / f"{name}.out")
        state.save()
    for name in list(state.processes):
        log = layout.log / f"{name}.out"
        wait_ready(state, name, functools.partial(_says, log, holder.READY))


def _plans(spec: ClusterSpec, cgroups: Cgroups) -> dict[str, Plan]:
    major = free_major(Path("/proc/devices").read_text())
    plain = host_devices()
    nodes = {
        name: node_plan(spec, name, cgroups, major=major, plain=plain) for name in spec.node_names
    }
    return {LOGIN: login_plan(spec, cgroups), **nodes}


def _says(log: Path, text: str, *, since: int = 0) -> bool:
    """Says whether `text` was logged after the first `since` bytes."""
    return text.encode() in log.read_bytes()[since:]


def _accepts(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    """Says whether somebody listens there."""
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def _story(state: ClusterState, name: str) -> str:
    """The last words of a process, and where to read more."""
    log = Layout(state.spec.directory).log / f"{name}.out"
    return f"{last_words(log)} (all of it: {log})"
