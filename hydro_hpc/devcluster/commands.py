"""`hydro cluster up|down|status|run`: the embedded cluster on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hydro_hpc.devcluster.cluster import Cluster
from hydro_hpc.devcluster.spec import DEFAULT_DIRECTORY, USERS, ClusterSpec, ClusterStatus
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, ConfigError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(subparsers: Subparsers) -> None:
    """Adds `cluster` to the parser of `hydro`.

    Sets `command` in the parsed namespace: a function of that namespace that returns an exit code.
    """
    cluster = subparsers.add_parser("cluster", help="the embedded Slurm cluster of this host")
    commands = cluster.add_subparsers(metavar="COMMAND", required=True)
    up = commands.add_parser("up", help="start the cluster, unless it runs")
    up.add_argument("--nodes", type=int, default=2, metavar="N", help="nodes (default: 2)")
    up.add_argument(
        "--devices", type=int, default=1, metavar="N", help="devices of each node (default: 1)"
    )
    up.add_argument(
        "--port",
        type=int,
        default=0,
        metavar="PORT",
        help="first of 1 + NODES ports (default: whichever are free)",
    )
    _add_common(up, _up)
    _add_common(commands.add_parser("down", help="end the cluster and remove it, homes too"), _down)
    _add_common(commands.add_parser("status", help="say how the cluster is doing"), _status)
    run = commands.add_parser("run", help="run a command on the cluster's login side")
    run.add_argument(
        "--user", choices=USERS, default=USERS[0], help=f"as whom (default: {USERS[0]})"
    )
    _add_directory(run)
    run.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="CMD", help="the command and its arguments"
    )
    run.set_defaults(command=_run)


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        type=lambda text: Path(text).absolute(),
        default=DEFAULT_DIRECTORY,
        metavar="DIR",
        help=f"the cluster's directory (default: {DEFAULT_DIRECTORY})",
    )


def _add_common(parser: argparse.ArgumentParser, command: object) -> None:
    _add_directory(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(command=command)


def _existing(directory: Path) -> Cluster:
    """Returns the cluster in a directory as it was made, or a default one if there is none."""
    state = load_state(directory)
    return Cluster(state.spec if state else ClusterSpec(directory=directory))


def _up(arguments: argparse.Namespace) -> int:
    spec = ClusterSpec(
        nodes=arguments.nodes,
        devices_per_node=arguments.devices,
        directory=arguments.dir,
        first_port=arguments.port,
    )
    _show(Cluster(spec).up(), as_json=arguments.json)
    return EXIT_DONE


def _down(arguments: argparse.Namespace) -> int:
    cluster = _existing(arguments.dir)
    cluster.down()
    _show(cluster.status(), as_json=arguments.json)
    return EXIT_DONE


def _status(arguments: argparse.Namespace) -> int:
    status = _existing(arguments.dir).status()
    _show(status, as_json=arguments.json)
    return EXIT_DONE if status.state == "up" else EXIT_FAILED


def _run(arguments: argparse.Namespace) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise ConfigError("hydro cluster run needs a command; for example: squeue")
    if os.geteuid():
        raise ConfigError("the embedded cluster needs root; run the same command with sudo")
    with _existing(arguments.dir).popen(argv, user=arguments.user) as process:
        return process.wait()


def _show(status: ClusterStatus, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(status), default=str))
    else:
        print("\n".join(status_lines(status)))


def status_lines(status: ClusterStatus) -> list[str]:
    """Returns the status as plain lines for people."""
    if status.state == "down":
        return [f"cluster: down ({status.directory})"]
    lines = [f"cluster: {status.state}, Slurm {status.slurm_version} ({status.directory})"]
    lines += [f"node {name}: {state}" for name, state in status.nodes.items()]
    lines += [f"{name}: ended; run: hydro cluster up" for name in status.missing]
    lines += [f"not enforced: {text}" for text in status.not_enforced]
    return lines
