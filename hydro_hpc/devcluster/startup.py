"""Starting a cluster: one process after the other, each recorded before the next one starts."""

from __future__ import annotations

import functools
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hydro_hpc.devcluster import holder
from hydro_hpc.devcluster.cgroups import Cgroups
from hydro_hpc.devcluster.daemons import COORDINATOR, MUNGED, SLURMCTLD, Daemon, list_daemons
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

START_S: Final = 30.0
POLL_S: Final = 0.02


def start_all(
    state: ClusterState,
    cgroups: Cgroups,
    *,
    controller_port: int,
    nodes_are_idle: Callable[[], bool],
) -> None:
    """Starts holders and daemons. Raises SlurmError with the last words of what does not start."""
    cgroups.create([LOGIN, *state.spec.node_names])
    _start_holders(state, cgroups)
    layout = Layout(state.spec.directory)
    conditions: dict[str, Callable[[], bool]] = {
        MUNGED: layout.munge_socket.exists,
        SLURMCTLD: functools.partial(_accepts, controller_port),
        COORDINATOR: functools.partial(_says, layout.log / f"{COORDINATOR}.out", "event=start"),
    }
    for daemon in list_daemons(state.spec):
        start_daemon(state, cgroups, daemon)
        if condition := conditions.get(daemon.name):
            wait_ready(state, daemon.name, condition)
    wait_ready(state, SLURMCTLD, nodes_are_idle)


def start_daemon(state: ClusterState, cgroups: Cgroups, daemon: Daemon) -> None:
    """Starts one daemon in its namespace and records it."""
    program = find_program(daemon.argv[0]) or daemon.argv[0]
    enter = entering(state.processes[daemon.member], cgroups.joined_by_daemons(daemon.member))
    become = (
        as_user(daemon.user, cwd=Path("/"), environment=ROOT_ENVIRONMENT) if daemon.user else []
    )
    command = [*enter, *become, program, *daemon.argv[1:]]
    log = Layout(state.spec.directory).log / f"{daemon.name}.out"
    state.processes[daemon.name] = start_detached(command, log=log)
    state.save()


def wait_ready(state: ClusterState, what: str, condition: Callable[[], bool]) -> None:
    """Waits for a condition. Raises SlurmError if a process ends meanwhile, or after START_S."""
    deadline = time.monotonic() + START_S
    while not condition():
        if missing := state.missing():
            story = _story(state, missing[0])
            raise SlurmError(f"{missing[0]} ended while the cluster started: {story}")
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


def _says(log: Path, text: str) -> bool:
    return text in log.read_text()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _story(state: ClusterState, name: str) -> str:
    """The last words of a process, and where to read more."""
    log = Layout(state.spec.directory).log / f"{name}.out"
    return f"{last_words(log)} (all of it: {log})"
