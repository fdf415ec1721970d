"""A private Slurm cluster on one host: up, down, status, and running commands in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hydro_hpc.devcluster.cgroups import Cgroups, detect_cgroups
from hydro_hpc.devcluster.daemons import MUNGED, SLURMCTLD, list_daemons
from hydro_hpc.devcluster.files import write_files
from hydro_hpc.devcluster.plugin import install_plugin
from hydro_hpc.devcluster.ports import reserved_ports
from hydro_hpc.devcluster.processes import (
    ROOT_ENVIRONMENT,
    as_user,
    end_processes,
    entering,
    mount_namespaces,
    processes_in,
)
from hydro_hpc.devcluster.requirements import (
    check_host,
    check_namespaces,
    memory_mib,
    read_slurm_version,
    version_pair,
)
from hydro_hpc.devcluster.slurm_conf import HostFacts
from hydro_hpc.devcluster.spec import LOGIN, PAGE_DIR, USERS, ClusterSpec, ClusterStatus, Layout
from hydro_hpc.devcluster.startup import start_all, start_daemon, wait_ready
from hydro_hpc.devcluster.state import ClusterState, load_state
from hydro_hpc.errors import ConfigError, SlurmError
from hydro_hpc.identity import is_alive

SURVIVES_RESTART: Final = "home"  # what `up` keeps of a cluster that was killed
KEPT_ON_FAILURE: Final = ("log", "cluster.json")


class Cluster:
    """The cluster in `spec.directory`. Only root can use it; several processes may at once."""

    page_dir: Final = PAGE_DIR
    users: Final = USERS

    def __init__(self, spec: ClusterSpec | None = None) -> None:
        self.spec = spec or ClusterSpec()
        self._layout = Layout(self.spec.directory)
        self._cgroups = Cgroups(self.spec.cgroup_name, detect_cgroups())

    @property
    def log_dir(self) -> Path:
        return self._layout.log

    def home(self, user: str) -> Path:
        """Returns a user's home, the same directory on all nodes and the login side."""
        if user not in USERS:
            raise ConfigError(
                f"there is no user {user!r} in the cluster; users: {', '.join(USERS)}"
            )
        return self._layout.home(user)

    # --- up and down --------------------------------------------------------------------------

    def up(self) -> ClusterStatus:
        """Starts the cluster, unless it runs; one of which parts are gone is started afresh.

        Raises ConfigError or SlurmError, and leaves nothing but the logs behind then.
        """
        check_host()
        check_namespaces()
        with self._locked():
            self._check_directory()
            state = load_state(self.spec.directory)
            if state and state.is_complete and not state.missing():
                self._check_same_spec(state)
                return self._status_of(state)
            self._clean(keep=(SURVIVES_RESTART,))
            had_homes = self._layout.homes.exists()
            try:
                with reserved_ports(1 + self.spec.nodes, first=self.spec.first_port) as ports:
                    return self._start(ports)
            except BaseException:
                self._clean(keep=(*KEPT_ON_FAILURE, *((SURVIVES_RESTART,) if had_homes else ())))
                raise

    def _check_directory(self) -> None:
        root = self.spec.directory
        if root.stat().st_uid != 0:
            raise ConfigError(f"{root} does not belong to root; choose another directory")
        foreign = set(os.listdir(root)) - {SURVIVES_RESTART}
        if foreign and not self._layout.state_file.exists():
            raise ConfigError(f"{root} holds other files; choose an empty or a new directory")

    def _check_same_spec(self, state: ClusterState) -> None:
        if state.spec != self.spec:
            raise ConfigError(
                f"another cluster ({state.spec.nodes} nodes of {state.spec.devices_per_node} "
                f"devices) runs in {self.spec.directory}; end it with: hydro cluster down"
            )

    def _start(self, ports: list[int]) -> ClusterStatus:
        version = read_slurm_version()
        self.spec.directory.chmod(0o755)
        support = self._cgroups.support
        state = ClusterState(
            spec=self.spec,
            slurm_version=version,
            ports=ports,
            not_enforced=support.not_enforced,
        )
        state.save()
        facts = HostFacts(
            slurm_version=version_pair(version),
            memory_mib=memory_mib(),
            cgroups=support,
            ports=ports,
        )
        write_files(self.spec, facts)
        install_plugin(self.spec, facts, cores=sorted(os.sched_getaffinity(0)))
        start_all(
            state,
            self._cgroups,
            nodes_are_idle=lambda: set(self._node_states().values()) == {"idle"},
        )
        state.is_complete = True
        state.save()
        return self._status_of(state)

    def down(self) -> None:
        """Ends the cluster and removes everything of it; does nothing if there is none."""
        check_host()
        if not self.spec.directory.exists():
            self._end_processes(None)
            return
        with self._locked():
            self._check_directory()
            self._clean(keep=())

    def restart(self, name: str) -> None:
        """Starts one daemon again that has ended, e.g. `slurmd.n1`, and waits until it is ready.

        Raises ConfigError if there is no such daemon or it runs.
        """
        with self._locked():
            state = self._running_state()
            daemons = {daemon.name: daemon for daemon in list_daemons(state.spec)}
            if name not in daemons:
                raise ConfigError(f"there is no daemon {name!r}; daemons: {', '.join(daemons)}")
            if is_alive(state.processes[name]):
                raise ConfigError(f"{name} runs (pid {state.processes[name].pid}); end it first")
            ready = start_daemon(state, self._cgroups, daemons[name])
            wait_ready(state, name, ready, among=[name])

    def _clean(self, *, keep: tuple[str, ...]) -> None:
        """Ends all processes and removes all files but those named; removes an empty directory."""
        self._end_processes(load_state(self.spec.directory))
        for path in self.spec.directory.iterdir():
            if path.name in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _end_processes(self, state: ClusterState | None) -> None:
        namespaces = mount_namespaces(state.processes.values() if state else ())
        end_processes(
            lambda: self._cgroups.pids() | processes_in(namespaces), thaw=self._cgroups.thaw
        )
        self._cgroups.remove()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Makes the directory and holds its lock; at the end it goes away again if it is empty."""
        directory = self.spec.directory
        while True:
            try:
                directory.mkdir(exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{directory} cannot be made ({error.strerror}); choose another directory"
                ) from None
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(directory), os.fstat(fd)):
                    break
            os.close(fd)  # removed by another command while we waited
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                directory.rmdir()
            os.close(fd)

    # --- use ----------------------------------------------------------------------------------

    def status(self) -> ClusterStatus:
        """Returns how the cluster is doing; changes nothing."""
        if state := load_state(self.spec.directory):
            return self._status_of(state)
        return ClusterStatus(
            state="down",
            directory=self.spec.directory,
            nodes={},
            processes={},
            missing=[],
            not_enforced=[],
        )

    def _status_of(self, state: ClusterState) -> ClusterStatus:
        running, missing = state.running(), state.missing()
        answers = {LOGIN, MUNGED, SLURMCTLD} <= set(running)
        return ClusterStatus(
            state="up" if state.is_complete and not missing else "stale",
            directory=self.spec.directory,
            slurm_version=state.slurm_version,
            nodes=self._node_states() if answers else {},
            processes={name: state.processes[name].pid for name in running},
            missing=missing,
            not_enforced=state.not_enforced,
        )

    def _node_states(self) -> dict[str, str]:
        """Returns Slurm's state of each node by name; empty if slurmctld does not answer."""
        done = self.on_node(LOGIN, ["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"])
        if done.returncode != 0:
            return {}
        return dict(line.split() for line in done.stdout.splitlines())

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "alice",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the login side as a cluster user, in their home unless `cwd` is given.

        `environment` is added to a login's usual one; nothing is inherited from the caller.
        """
        return subprocess.run(
            self._as_user(argv, user, cwd, environment),
            capture_output=True,
            text=True,
            input=input or "",
            timeout=timeout_s,
            env=ROOT_ENVIRONMENT,
        )

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: str = "alice",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Starts a command like `run`, for the caller to wait for. `options` go to Popen."""
        return subprocess.Popen(
            self._as_user(argv, user, cwd, environment),
            text=True,
            env=ROOT_ENVIRONMENT,
            **options,
        )

    def on_node(
        self, name: str, argv: Sequence[str], *, timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command as root inside the namespaces of a node, or of `login`."""
        return subprocess.run(
            [*self._entering(self._running_state(), name), *argv],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=ROOT_ENVIRONMENT,
        )

    def _as_user(
        self,
        argv: Sequence[str],
        user: str,
        cwd: Path | None,
        environment: Mapping[str, str] | None,
    ) -> list[str]:
        home = self.home(user)
        variables = {
            "HOME": str(home),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "PATH": f"{Path(sys.prefix) / 'bin'}:{ROOT_ENVIRONMENT['PATH']}",
            **(environment or {}),
        }
        become = as_user(user, cwd=cwd or home, environment=variables)
        return [*self._entering(self._running_state(), LOGIN), *become, *argv]

    def _running_state(self) -> ClusterState:
        state = load_state(self.spec.directory)
        if state is None:
            where = self.spec.directory
            raise SlurmError(f"no cluster runs in {where}; run: hydro cluster up --dir {where}")
        return state

    def _entering(self, state: ClusterState, member: str) -> list[str]:
        members = (LOGIN, *state.spec.node_names)
        if member not in members or member not in state.processes:
            raise ConfigError(f"there is no node {member!r}; there are: {', '.join(members)}")
        return entering(state.processes[member], self._cgroups.joined_by_daemons(member))
