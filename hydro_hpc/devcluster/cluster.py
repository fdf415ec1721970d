"""A private Slurm cluster on one host: up, down, status, and running commands in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hydro_hpc.devcluster import holder
from hydro_hpc.devcluster.cgroups import Cgroups, detect_cgroups
from hydro_hpc.devcluster.host_etc import write_host_etc
from hydro_hpc.devcluster.namespaces import (
    Plan,
    free_major,
    host_devices,
    login_plan,
    node_plan,
)
from hydro_hpc.devcluster.plugin import install_plugin
from hydro_hpc.devcluster.processes import (
    ROOT_ENVIRONMENT,
    as_user,
    entering,
    last_line,
    start_detached,
)
from hydro_hpc.devcluster.requirements import (
    check_host,
    check_namespaces,
    choose_ports,
    find_program,
    memory_mib,
    read_slurm_version,
    version_pair,
)
from hydro_hpc.devcluster.slurm_conf import (
    SLURM_USER,
    HostFacts,
    cgroup_conf,
    check_gres_order,
    gres_conf,
    slurm_conf,
)
from hydro_hpc.devcluster.spec import LOGIN, PAGE_DIR, USERS, ClusterSpec, ClusterStatus, Layout
from hydro_hpc.devcluster.state import ClusterState, load_state
from hydro_hpc.errors import ConfigError, SlurmError
from hydro_hpc.identity import is_alive

START_S: Final = 30.0
POLL_S: Final = 0.02


class Cluster:
    """The cluster in `spec.directory`. Only root can use it; several processes may at once."""

    page_dir: Final = PAGE_DIR
    users: Final = USERS

    def __init__(self, spec: ClusterSpec | None = None) -> None:
        self.spec = spec or ClusterSpec()
        self._layout = Layout(self.spec.directory)
        self._cgroups = Cgroups(self.spec.cgroup_name, detect_cgroups())

    def home(self, user: str) -> Path:
        """Returns a user's home, the same directory on all nodes and the login side."""
        if user not in USERS:
            raise ConfigError(
                f"there is no user {user!r} in the cluster; users: {', '.join(USERS)}"
            )
        return self._layout.home(user)

    @property
    def log_dir(self) -> Path:
        return self._layout.log

    # --- up -----------------------------------------------------------------------------------

    def up(self) -> ClusterStatus:
        """Starts the cluster; does nothing if it runs, and starts it afresh if parts of it are gone."""
        check_host()
        check_namespaces()
        self._make_directory()
        with self._locked():
            state = load_state(self.spec.directory)
            if state and state.is_complete and not state.missing():
                self._check_same_spec(state)
                return self._status_of(state)
            self._clean(keep_homes=True)
            try:
                return self._start()
            except BaseException:
                self._clean(keep_homes=True, keep_logs=True)
                raise

    def _make_directory(self) -> None:
        root = self.spec.directory
        root.mkdir(parents=True, exist_ok=True)
        if root.stat().st_uid != 0:
            raise ConfigError(f"{root} does not belong to root; choose another directory")
        ours = {"cluster.json", "log", "home"}
        if not ours >= (found := set(os.listdir(root))) and "cluster.json" not in found:
            raise ConfigError(f"{root} holds other files; choose an empty or new directory")
        root.chmod(0o755)

    def _check_same_spec(self, state: ClusterState) -> None:
        if state.spec != self.spec:
            raise ConfigError(
                f"another cluster ({state.spec.nodes} nodes of {state.spec.devices_per_node} "
                f"devices) runs in {self.spec.directory}; end it with: hydro cluster down"
            )

    def _start(self) -> ClusterStatus:
        version = read_slurm_version()
        state = ClusterState(
            spec=self.spec,
            slurm_version=version,
            not_enforced=self._cgroups.support.not_enforced,
        )
        state.save()
        self._write_files(version)
        self._cgroups.create([LOGIN, *self.spec.node_names])
        self._start_holders(state)
        self._start_munged(state)
        self._start_daemon(state, "slurmctld", LOGIN, ["slurmctld", "-D"])
        self._wait(self._controller_answers, "slurmctld", state)
        for name in self.spec.node_names:
            self._start_daemon(state, f"slurmd.{name}", name, ["slurmd", "-D", "-N", name])
        self._wait(self._nodes_are_idle, "slurmd", state)
        state.is_complete = True
        state.save()
        return self._status_of(state)

    def _write_files(self, version: str) -> None:
        layout, spec = self._layout, self.spec
        for path in (layout.etc, layout.log, layout.controller, layout.root / "home"):
            path.mkdir(exist_ok=True)
        uids = write_host_etc(spec)
        for user, uid in uids.items():
            layout.home(user).mkdir(exist_ok=True)
            layout.home(user).chmod(0o755)
            os.chown(layout.home(user), uid, uid)
        for name in spec.node_names:
            for part in ("spool", "tmp"):
                (layout.node(name) / part).mkdir(parents=True)
        slurm_state = layout.controller / "state"
        slurm_state.mkdir()
        shutil.chown(slurm_state, SLURM_USER, SLURM_USER)
        shutil.chown(layout.controller, SLURM_USER, SLURM_USER)
        log = layout.log / "slurmctld.log"
        log.touch()
        shutil.chown(log, SLURM_USER)
        facts = HostFacts(
            slurm_version=version_pair(version),
            memory_mib=memory_mib(),
            cgroups=self._cgroups.support,
            ports=choose_ports(1 + spec.nodes, first=spec.first_port),
            has_plugin=install_plugin(spec.directory, spec),
        )
        text = slurm_conf(spec, facts)
        check_gres_order(text)
        (layout.etc / "slurm.conf").write_text(text)
        (layout.etc / "gres.conf").write_text(gres_conf(spec, facts))
        (layout.etc / "cgroup.conf").write_text(cgroup_conf(facts))

    def _plans(self) -> dict[str, Plan]:
        major = free_major(Path("/proc/devices").read_text())
        plain = host_devices()
        nodes = {
            name: node_plan(self.spec, name, self._cgroups, major=major, plain=plain)
            for name in self.spec.node_names
        }
        return {LOGIN: login_plan(self.spec, self._cgroups), **nodes}

    def _start_holders(self, state: ClusterState) -> None:
        for name, plan in self._plans().items():
            file = self._layout.root / f"plan.{name}.json"
            file.write_text(json.dumps(plan))
            argv = [sys.executable, "-I", "-S", holder.__file__, str(file)]
            state.processes[name] = start_detached(argv, log=self._holder_log(name))
            state.save()
        for name in self._plans():
            self._wait(lambda name=name: self._is_ready(name), name, state)  # type: ignore[misc]

    def _holder_log(self, name: str) -> Path:
        return self._layout.log / f"holder.{name}.log"

    def _is_ready(self, name: str) -> bool:
        return self._holder_log(name).read_text().endswith("ready\n")

    def _start_munged(self, state: ClusterState) -> None:
        munge = self._layout.munge
        munge.mkdir(mode=0o755)
        key = munge / "key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(128))
        argv = ["munged", "--foreground", f"--key-file={key}"]
        argv += [f"--socket={self._layout.munge_socket}", f"--pid-file={munge}/pid"]
        argv += [f"--seed-file={munge}/seed", f"--log-file={self._layout.log}/munged.log"]
        self._start_daemon(state, "munged", LOGIN, argv)
        self._wait(self._layout.munge_socket.exists, "munged", state)

    def _start_daemon(self, state: ClusterState, name: str, member: str, argv: list[str]) -> None:
        log = self._layout.log / f"{name}.out"
        program = find_program(argv[0]) or argv[0]
        command = [*self._entering(state, member), program, *argv[1:]]
        state.processes[name] = start_detached(command, log=log)
        state.save()

    def _wait(self, condition: Callable[[], bool], what: str, state: ClusterState) -> None:
        """Waits for a condition while all processes live. Raises SlurmError with the log's last line."""
        deadline = time.monotonic() + START_S
        while not condition():
            if missing := state.missing():
                raise SlurmError(f"{missing[0]} ended while starting: {self._story(missing[0])}")
            if time.monotonic() > deadline:
                raise SlurmError(f"{what} is not ready after {START_S:.0f} s: {self._story(what)}")
            time.sleep(POLL_S)

    def _story(self, name: str) -> str:
        """The last words of a process, and where to read more."""
        names = (f"{name}.out", f"{name}.log", f"holder.{name}.log")
        logs = [log for log in (self._layout.log / n for n in names) if log.exists()]
        told = [log for log in logs if log.stat().st_size]
        return f"{last_line(told[0])} ({told[0]})" if told else f"no log in {self._layout.log}"

    def _controller_answers(self) -> bool:
        text = (self._layout.etc / "slurm.conf").read_text()
        port = int(text.partition("SlurmctldPort=")[2].split()[0])
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _nodes_are_idle(self) -> bool:
        return set(self._node_states().values()) == {"idle"}

    def _node_states(self) -> dict[str, str]:
        """Returns Slurm's state of each node by name; empty if slurmctld does not answer."""
        done = self.on_node(LOGIN, ["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"])
        if done.returncode != 0:
            return {}
        return dict(line.split() for line in done.stdout.splitlines())

    # --- down ---------------------------------------------------------------------------------

    def down(self) -> None:
        """Ends the cluster and removes everything of it; does nothing if there is none."""
        check_host()
        if not self.spec.directory.exists():
            self._end_everything()
            return
        with self._locked():
            if load_state(self.spec.directory) is None and os.listdir(self.spec.directory):
                raise ConfigError(f"{self.spec.directory} holds no cluster; name its directory")
            self._clean(keep_homes=False)
            self.spec.directory.rmdir()

    def _end_everything(self) -> None:
        self._cgroups.end_processes()
        self._cgroups.remove()

    def _clean(self, *, keep_homes: bool, keep_logs: bool = False) -> None:
        self._end_everything()
        kept = {"home"} if keep_homes else set()
        kept |= {"log", "cluster.json"} if keep_logs else set()
        for path in self.spec.directory.iterdir():
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    # --- use ----------------------------------------------------------------------------------

    def status(self) -> ClusterStatus:
        state = load_state(self.spec.directory)
        if state is None:
            return ClusterStatus(
                state="down",
                directory=self.spec.directory,
                nodes={},
                processes={},
                missing=[],
                not_enforced=[],
            )
        return self._status_of(state)

    def _status_of(self, state: ClusterState) -> ClusterStatus:
        missing = state.missing()
        has_login = LOGIN in state.processes and LOGIN not in missing
        return ClusterStatus(
            state="up" if state.is_complete and not missing else "stale",
            directory=self.spec.directory,
            slurm_version=state.slurm_version,
            nodes=self._node_states() if has_login else {},
            processes={n: who.pid for n, who in state.processes.items() if is_alive(who)},
            missing=missing,
            not_enforced=state.not_enforced,
        )

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
        """Runs a command on the login side as a cluster user, in their home unless `cwd` is given."""
        return subprocess.run(
            self._as_user(argv, user, cwd, environment),
            capture_output=True,
            text=True,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
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
        """Starts a command like `run`; the caller waits for it. `options` go to Popen."""
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
            raise SlurmError(f"no cluster runs in {self.spec.directory}; run: hydro cluster up")
        return state

    def _entering(self, state: ClusterState, member: str) -> list[str]:
        if member not in state.processes:
            raise ConfigError(
                f"there is no node {member!r}; nodes: {', '.join(state.spec.node_names)}"
            )
        return entering(state.processes[member], self._cgroups.joined_by_daemons(member))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the directory's lock, so that two `up` or `down` at once take turns."""
        fd = os.open(self.spec.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
