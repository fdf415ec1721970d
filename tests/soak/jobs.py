"""The two jobs of the soak test: a primary of two ranks, and a gang of one process beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hydro_hpc.page import BadPageError, Page, page_path
from hydro_hpc.page_layout import PageKind, PrimaryState
from tests.hydro_hpc.trial.solo import children
from tests.soak.node import NUM_DEVICES, TENANT_LANE, Node

SCRIPT: Final = Path(__file__).parent / "scripts/pipeline.py"
WORK_MS: Final = "20,4"  # of each stage: the tenant's device is free for most of the time
ENDLESS: Final = 10**9
SETTINGS: Final = {
    "HYDRO_GUARD_BOUND": "0.9",  # a busy machine trips no guard
    "HYDRO_GUARD_DENSE_STEPS": str(ENDLESS),  # every second block of steps is shut
}
STILL_S: Final = 3.0  # a primary that stands still for so long is left


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def run_ranks(
    node: Node, directory: Path, *, steps: int, work_ms: str, **environment: str
) -> list[subprocess.Popen[bytes]]:
    """Starts both ranks of the training as alice; its files are in `directory`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, str(SCRIPT), str(steps), work_ms, str(directory)]
    common = {"WORLD_SIZE": str(NUM_DEVICES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        node.alice.start(
            command,
            log=directory.parent / f"{directory.name}-rank{rank}.log",
            **common,
            **environment,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(NUM_DEVICES)
    ]


class PrimaryJob:
    """A job that lends both devices, from its prolog to its epilog."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node = node
        self.job = node.new_job("lender")
        self.answer = node.run(
            "lend", "lender", "--job", str(self.job), "--uid", str(node.alice.uid)
        )
        self.ranks = run_ranks(
            node,
            directory,
            steps=ENDLESS,
            work_ms=WORK_MS,
            HYDRO_PAGE_DIR=str(node.pages),
            HYDRO_LANES=self.answer.partition("HYDRO_LANES=")[2].partition("\n")[0],
            HYDRO_ROLE="lend",
            SLURM_JOB_ID=str(self.job),
            **SETTINGS,
        )

    def is_running(self) -> bool:
        return all(rank.poll() is None for rank in self.ranks)

    def is_sharing(self) -> bool:
        pages = [self.page(index) for index in range(NUM_DEVICES)]
        return all(page.get("state") == PrimaryState.SHARING for page in pages)

    def page(self, index: int) -> Page:
        path = page_path(self._node.lane(index), PageKind.STAGE)
        return Page.read_copy(path, PageKind.STAGE)

    def end(self) -> None:
        """As srun and slurmd do when one of its ranks has failed: the others are killed, then the
        epilog runs.
        """
        for rank in self.ranks:
            rank.kill()
            rank.communicate()
        self._node.end_job(self.job)


class GangJob:
    """A job that tunes in the tenant's lane, from its prolog to its epilog; one step."""

    def __init__(self, node: Node, *, job: int | None = None, step: int = 0) -> None:
        """`job`: this is another step of that job."""
        self._node = node
        self.job = job or node.new_job("tenant")
        self.step = step
        command = ["/bin/sh", "-c", 'read _ && exec "$0" "$@"', sys.executable]
        self.process = node.bob.start(
            [*command, "-m", "hydro_hpc.trial.command", "study.py"],
            log=node.bob.home / "gang.log",
            stdin=subprocess.PIPE,
            HYDRO_PAGE_DIR=str(node.pages),
            HYDRO_LANES=str(TENANT_LANE),
            HYDRO_ROLE="take",
            HYDRO_ARRIVAL_S=str(STILL_S),
            HYDRO_IDLE_CLASS="0",  # which could wait for ever on a busy machine
            SLURM_JOB_ID=str(self.job),
            PATH=f"{node.path}/bin:{os.environ['PATH']}",
        )
        self.answer = node.run("take", "tenant", *self._who(), "--pid", str(self.process.pid))
        assert self.process.stdin is not None
        if self.has_lane:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        else:
            self.process.kill()

    def _who(self) -> list[str]:
        return ["--job", str(self.job), "--step", str(self.step), "--uid", str(self._node.bob.uid)]

    @property
    def has_lane(self) -> bool:
        return f"HYDRO_LANES={TENANT_LANE}\n" in self.answer

    def is_running(self) -> bool:
        return self.process.poll() is None

    def child(self, name: str) -> int:
        """Returns the pid of the `worker` or the `searcher`, 0 if it is not up."""
        try:
            found = [pid for pid, line in children(self.process.pid) if f"trial.{name}" in line]
        except OSError:
            return 0
        return found[0] if found else 0

    def samples(self) -> int:
        """Returns how many samples the present worker has trained; 0: it says nothing yet."""
        path = page_path(self._node.lane(TENANT_LANE), PageKind.TRIAL)
        try:
            page = Page.read_copy(path, PageKind.TRIAL)
        except BadPageError:
            return 0
        return page.get("num_samples") if page.get("pid") == self.child("worker") else 0

    def wait_for_end(self, timeout_s: float = 40) -> int:
        """Returns the exit code of its first process."""
        wait_until(lambda: not self.is_running(), "the gang ends", timeout_s)
        return int(self.process.returncode)

    def ask_to_end(self) -> int:
        """Ends it as `scancel` does; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait_for_end()

    def leave(self) -> None:
        """What the plugin does when the step's processes have ended."""
        self._node.run("leave", "tenant", *self._who())

    def end(self) -> None:
        """What slurmd does at its end; what still runs of it is ended."""
        self._node.end_job(self.job)
        self.process.communicate()
