"""The processes of the benchmark: a primary with our plugin, one without, trials with and without
gate.

The primary that lends and its gang are real jobs on an embedded cluster. The plain primary is the
same script with the same arguments, started without Slurm and without our plugin in its
environment, on the same cores; whichever does not run is stopped, so that blocks of a few steps
alternate within one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydro_hpc.demo import jobs
from hydro_hpc.devcluster import Cluster
from hydro_hpc.devices import cpu_core
from hydro_hpc.page import Page, lane_dir, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.report.lanes import LanePlace
from hydro_hpc.report.recording import LaneRecorder, read_written
from tests.hydro_hpc.growing_file import GrowingFile

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "examples/gpt_pipeline/train.py"
STEPS = "1000000"
UNGUARDED = {"HYDRO_GUARD_BOUND": "0.9", "HYDRO_GUARD_DENSE_STEPS": STEPS}
UP_S = 120.0
LOOK_S = 0.05  # at the losses: each look takes the core from somebody


@dataclass(frozen=True, slots=True)
class Line:
    """One step of a primary, as its own loss file says it."""

    step: int  # from 0
    loss: float
    step_s: float


class LossFile:
    """A primary's loss file, read while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self.lines: list[Line] = []

    def read(self) -> list[Line]:
        """Returns the lines that have come since the last call."""
        fresh = [_line(text) for text in self._file.new_lines()]
        self.lines += fresh
        return fresh


def _line(text: bytes) -> Line:
    body = json.loads(text)
    return Line(body["step"] - 1, body["loss"], body["step_s"])


class Processes:
    """Some processes that are stopped and continued together."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    def threads(self) -> list[list[int]]:
        """Returns the thread ids of each process."""
        return [[int(name) for name in os.listdir(f"/proc/{pid}/task")] for pid in self.pids]


class Primary:
    """A primary: its ranks in order, and its loss file."""

    def __init__(self, ranks: Processes, losses: LossFile) -> None:
        self.ranks = ranks
        self.losses = losses

    def run_block(
        self, steps: int, *, settle: int, settled: Callable[[], None] = lambda: None
    ) -> list[Line]:
        """Lets it run for `settle` steps that do not count, calls `settled`, lets it run for
        `steps` that do, and stops it.
        """
        self.ranks.go_on()
        self.losses.read()
        seen: list[Line] = []
        is_settled = False
        give_up = time.monotonic() + 60 + 5 * steps
        while len(seen) < settle + steps:
            time.sleep(LOOK_S)
            seen += self.losses.read()
            if len(seen) >= settle and not is_settled:
                is_settled = True
                settled()
            if time.monotonic() > give_up:
                raise TimeoutError("the primary of the benchmark makes no steps")
        self.ranks.stop()
        return seen[settle : settle + steps]


@contextlib.contextmanager
def local_primary(
    directory: Path,
    cores: list[int],
    command: list[str],
    *,
    name: str = "plain",
    lanes: Path | None = None,
    lending: Sequence[int] | None = None,
    settings: Mapping[str, str] = UNGUARDED,
) -> Iterator[Primary]:
    """A primary without Slurm, one rank per core: `command` takes the options of the example.

    `lanes` is the directory of the lanes that it lends, one for each rank in `lending` (None: all
    ranks), with these settings; without it, it runs without us.
    """
    lending = range(len(cores)) if lending is None else lending
    loss_file = directory / f"{name}.jsonl"
    port = str(random.randrange(20_000, 40_000))
    ranks = []
    for rank, core in enumerate(cores):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("HYDRO_")
        }
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(cores))}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(ROOT)
        if lanes is not None and rank in lending:
            numbers = ",".join(str(number) for number in range(len(lending)))
            environment |= {"LOCAL_RANK": str(lending.index(rank))}
            environment |= {"HYDRO_PAGE_DIR": str(lanes), "HYDRO_LANES": numbers}
            environment |= {"HYDRO_ROLE": "lend", **settings}
        pinned = ["taskset", "-c", str(core), sys.executable, *command, "--steps", STEPS]
        with (directory / f"{name}{rank}.log").open("w") as log:
            ranks.append(
                subprocess.Popen(
                    [*pinned, "--loss-file", str(loss_file)],
                    cwd=directory,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        yield Primary(Processes([rank.pid for rank in ranks]), LossFile(loss_file))
    finally:
        for process in ranks:
            process.kill()
            process.wait()


class LentJob:
    """The primary that lends, its gang, and what their flight recorders see, one lane per stage."""

    def __init__(self, cluster: Cluster, places: list[LanePlace]) -> None:
        self._cluster = cluster
        self._places = places
        self.recorders = [LaneRecorder(place=place) for place in places]

    def submit_primary(
        self,
        arguments: list[str],
        *,
        script: Path = TRAIN,
        environment: dict[str, str] | None = None,
    ) -> Primary:
        """Submits it as alice, and returns it once both ranks write their pages. A `script` is put
        beside the example's files.
        """
        home = jobs.copy_example(self._cluster, "alice", "gpt_pipeline")
        shutil.copy(script, home / script.name)
        command = f"srun python {script.name} --steps {STEPS} --loss-file lent.jsonl "
        self._submit(
            "alice",
            home,
            command + " ".join(arguments),
            ["--hydro-bubble", "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:1"],
            {**(environment or UNGUARDED), "OMP_NUM_THREADS": "1"},
        )
        wait_until(lambda: all(self._page(place, PageKind.STAGE) for place in self._places))
        stages = [self._page(place, PageKind.STAGE) for place in self._places]
        pids = [page.get("pid") for page in stages if page is not None]
        return Primary(Processes(pids), LossFile(home / "lent.jsonl"))

    def submit_gang(self, study: Path) -> None:
        """Submits the study as bob, and waits until every worker trains."""
        home = jobs.copy_example(self._cluster, "bob", "digits")
        (home / "study.py").rename(home / "digits_example.py")
        shutil.copy(study, home / "study.py")
        script = "srun --mpi=pmix --kill-on-bad-exit=0 hydro-trial study.py"
        self._submit("bob", home, script, ["--bubbles=2"], {})
        wait_until(lambda: all(self.samples()))

    def samples(self) -> list[int]:
        """Returns how many samples each lane's worker has trained."""
        pages = [self._page(place, PageKind.TRIAL) for place in self._places]
        return [0 if page is None else page.get("num_samples") for page in pages]

    def workers(self) -> Processes:
        """Returns the workers, in the order of the stages."""
        pages = [self._page(place, PageKind.TRIAL) for place in self._places]
        return Processes([page.get("pid") for page in pages if page is not None])

    def hold(self, *, is_held: bool) -> None:
        """Pauses or resumes the lending, as `hydro pause` does: a primary that is stopped while it
        waits leaves its gate open.
        """
        for place in self._places:
            page = Page.map_for_changing(page_path(place.path, PageKind.STAGE), PageKind.STAGE)
            page.words[page.word_index("owner_word")] = Word.HOLD if is_held else Word.RUN
            page.close()

    def record(self) -> None:
        """Takes what the flight recorders have seen since the last call."""
        for recorder in self.recorders:
            recorder.read()

    def _page(self, place: LanePlace, kind: PageKind) -> Page | None:
        return read_written(place, kind)

    def _submit(
        self,
        user: str,
        directory: Path,
        script: str,
        options: list[str],
        environment: dict[str, str],
    ) -> None:
        path = directory / "benchmark.sbatch"
        path.write_text(f"#!/bin/bash\n{script}\n")
        jobs.submit(
            self._cluster,
            user=user,
            directory=directory,
            arguments=[*options, str(path)],
            environment=environment,
        )


class UngatedTrials:
    """The same bundles without a gate, one process per core, stopped unless they are asked for."""

    def __init__(
        self,
        directory: Path,
        cores: list[int],
        *,
        study: Path,
        slots: int,
        lanes: Path | None = None,
    ) -> None:
        """With `lanes` they obey the gates of that directory."""
        self._counters = []
        self._processes = []
        shutil.copy(study, directory / "study.py")
        shutil.copy(ROOT / "examples/digits/study.py", directory / "digits_example.py")
        for core in cores:
            counter = directory / f"samples{core}{'-gated' if lanes else ''}"
            counter.write_bytes(bytes(8))
            command = [sys.executable, "-m", "benchmarks.ungated_trial"]
            command += [str(directory / "study.py"), str(core), str(counter), str(slots)]
            if lanes is not None:
                command += ["--lane", lane_dir(str(lanes), cores.index(core))]
            process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
            self._processes.append(process)
            self._counters.append(counter)
        self.group = Processes([process.pid for process in self._processes])
        wait_until(lambda: all(self.samples()))
        self.group.stop()

    def set_class(self, *, is_idle: bool) -> None:
        for pid in self.group.pids:
            set_class(pid, is_idle=is_idle)

    def samples(self) -> list[int]:
        return [struct.unpack("<Q", counter.read_bytes())[0] for counter in self._counters]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def set_class(pid: int, *, is_idle: bool) -> None:
    """Puts all threads of a worker, and its session's autogroup, where `hydro-trial` would put them
    with the idle class or without it: there its share equals the primary's."""
    for tid in map(int, os.listdir(f"/proc/{pid}/task")):
        if is_idle:
            os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))
        else:
            cpu_core.enter_batch_class(tid)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("19" if is_idle else "0", encoding="ascii")


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + UP_S
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError("a process of the benchmark does not come up")
        time.sleep(0.1)
