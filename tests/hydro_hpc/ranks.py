"""Runs a training script as several local processes over gloo, each with a lane of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hydro_hpc.page import Page, lane_dir, page_path
from hydro_hpc.page_layout import PageKind
from tests.hydro_hpc.lanes import make_lane

LIMIT_S = 90


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_lanes(page_dir: Path, ranks: int = 2) -> Path:
    """Makes a lane per rank, on two cores, and returns `page_dir`."""
    for index in range(ranks):
        make_lane(page_dir, index, core=index % 2)
    return page_dir


def run_ranks(
    *command: str,
    page_dir: Path | None,
    ranks: int = 2,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Runs Python with `command` as `ranks` processes and returns what each printed.

    They lend the lanes of `page_dir`, as under the Slurm plugin; without it they are left alone.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for own in rank_environments(page_dir=page_dir, ranks=ranks, environment=environment)
    ]
    try:
        outputs = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(outputs)
    return outputs


def rank_environments(
    *, page_dir: Path | None, ranks: int, environment: Mapping[str, str] | None
) -> list[dict[str, str]]:
    """Returns each rank's environment, all of it."""
    common = os.environ | {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    if page_dir is not None:
        common["HYDRO_PAGE_DIR"] = str(page_dir)
        common["HYDRO_LANES"] = ",".join(str(index) for index in range(ranks))
        common["HYDRO_ROLE"] = "lend"
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def read_stage(page_dir: Path, index: int) -> Page:
    return Page.read_copy(page_path(lane_dir(str(page_dir), index), PageKind.STAGE), PageKind.STAGE)
