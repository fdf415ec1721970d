"""`hydro status`: the lanes of this node, or of an embedded cluster's nodes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hydro_hpc.devcluster.spec import DEFAULT_DIRECTORY
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.errors import EXIT_DONE, ConfigError
from hydro_hpc.report.lane_status import lane_status, status_line
from hydro_hpc.report.lanes import LanePlace, cluster_lanes, lanes_here

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(subparsers: Subparsers) -> None:
    """Adds `status` to the parser of `hydro`; see `devcluster.commands.add_commands`."""
    status = subparsers.add_parser(
        "status", help="who lends devices, who uses their bubbles, and what it costs"
    )
    status.add_argument(
        "--dir",
        type=lambda text: Path(text).absolute(),
        metavar="DIR",
        help="look at the embedded cluster in this directory "
        f"(default: this node's lanes, or the cluster in {DEFAULT_DIRECTORY} if there are none)",
    )
    status.add_argument("--json", action="store_true", help="print JSON, for programs")
    status.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    lanes = [lane_status(place) for place in _places(arguments.dir)]
    if arguments.json:
        print(json.dumps({"schema": 1, "lanes": [dataclasses.asdict(lane) for lane in lanes]}))
        return EXIT_DONE
    for lane in lanes:
        print(status_line(lane))
    if not lanes:
        print("no device is lent here; jobs lend with: sbatch --hydro-bubble")
    return EXIT_DONE


def _places(directory: Path | None) -> list[LanePlace]:
    """Raises ConfigError if the cluster that was asked for does not run, or may not be seen."""
    if directory is None:
        here = lanes_here()
        if here or not DEFAULT_DIRECTORY.exists():
            return here
    wanted = directory or DEFAULT_DIRECTORY
    state = load_state(wanted)
    if state is None or not state.is_complete or state.missing():
        if directory is None:
            return []
        raise ConfigError(f"no cluster runs in {wanted}; run: hydro cluster up --dir {wanted}")
    if os.geteuid() != 0:
        raise ConfigError("only root sees into the nodes of an embedded cluster; use sudo")
    return cluster_lanes(state)
