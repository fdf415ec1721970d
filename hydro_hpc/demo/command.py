"""`hydro demo`: checks, walks the road, writes the results, stops the cluster."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout
from rich.console import Console

from hydro_hpc.demo.jobs import Job, last_lines
from hydro_hpc.demo.progress import Progress
from hydro_hpc.demo.road import DemoError, Road
from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.devcluster.requirements import check_host
from hydro_hpc.errors import EXIT_DONE, ConfigError
from hydro_hpc.report.picture import write_picture
from hydro_hpc.report.summary import RunReport, summary
from hydro_hpc.report.table import table
from hydro_hpc.report.timeline import write_trace

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# A cluster of the demo's own, so that one that somebody works with is never touched.
DIRECTORY: Final = Path("/var/lib/hydro-demo")
LOCKS: Final = Path("/run")
KEPT: Final = "kept"  # a file beside the homes of a cluster that was meant to stay
NEEDED: Final = ("deepspeed", "mpi4py", "sklearn", "matplotlib")
TAIL_LINES: Final = 15
EXIT_INTERRUPTED: Final = 130


def add_commands(subparsers: Subparsers) -> None:
    """Adds `demo` to the parser of `hydro`; see `devcluster.commands.add_commands`."""
    demo = subparsers.add_parser(
        "demo", help="a training job lends its bubbles to a study, on a private Slurm cluster"
    )
    demo.add_argument(
        "--out",
        type=lambda text: Path(text).absolute(),
        default=Path("hydro-demo").absolute(),
        metavar="DIR",
        help="where summary.json, timeline.json, timeline.png and logs/ go (default: hydro-demo)",
    )
    demo.add_argument(
        "--dir",
        type=lambda text: Path(text).absolute(),
        default=DIRECTORY,
        metavar="DIR",
        help=f"the directory of the demo's own cluster (default: {DIRECTORY})",
    )
    demo.add_argument("--keep", action="store_true", help="leave the cluster running at the end")
    demo.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    started_s = time.monotonic()
    check_host()
    _check_packages()
    out: Path = arguments.out
    _make(out)
    cluster = Cluster(ClusterSpec(nodes=2, devices_per_node=1, directory=arguments.dir))
    console = Console()
    with _only_one(arguments.dir), _ending_is_an_interrupt():
        _end_earlier(cluster)
        is_kept = False
        try:
            report = _walk(Road(cluster, Progress(console)), out, started_s)
            _write(report, out)
            console.print(table(report))
            is_kept = arguments.keep
        except KeyboardInterrupt:
            print("hydro: the demo was interrupted; its cluster is stopped", file=sys.stderr)
            return EXIT_INTERRUPTED
        finally:
            _give(out)
            if is_kept:
                (cluster.home("alice").parent / KEPT).touch()
            else:
                _end(cluster)
    console.print(f"results: {out}", markup=False, highlight=False, soft_wrap=True)
    if is_kept:
        console.print(_how_to_use(arguments.dir), markup=False, highlight=False, soft_wrap=True)
    if not report.study.is_same:
        raise DemoError("the best trial's value alone is not the one it had in the bubbles")
    return EXIT_DONE


def _walk(road: Road, out: Path, started_s: float) -> RunReport:
    """Walks the road; whatever happens, keeps the jobs' logs, and shows their end on failure."""
    try:
        with road.progress:
            return road.walk(started_s=started_s)
    except Exception:
        for name, job in road.jobs().items():
            _show_end_of(name, job, road.progress.console)
        print(f"all logs: {out / 'logs'}")
        raise
    finally:
        _keep_logs(road, out / "logs")


def _write(report: RunReport, out: Path) -> None:
    data = json.dumps(summary(report), indent=2)
    (out / "summary.json").write_text(data + "\n", encoding="utf-8")
    write_trace(report.lanes, out / "timeline.json")
    title = "A study in the bubbles of a pipeline-parallel training job"
    if not write_picture(report.lanes, out / "timeline.png", title=title):
        print("hydro: no picture: the study shared too few steps to show some", file=sys.stderr)


def _check_packages() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the demo needs {', '.join(missing)}, which are missing; run: make setup"
        )


def _make(out: Path) -> None:
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be made ({error.strerror}); choose another directory with --out"
        ) from None


def _give(out: Path) -> None:
    """Under sudo: makes the results the caller's own, who could not remove them otherwise."""
    if "SUDO_UID" in os.environ:
        owner = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
        for path in (out, *out.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Holds the lock of the only demo in a directory. Raises ConfigError if there is another."""
    path = LOCKS / f"{directory.name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError("another demo runs on this host; wait until it has ended") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _end_earlier(cluster: Cluster) -> None:
    """Ends what a killed demo left. Raises ConfigError if its cluster was meant to stay."""
    kept = cluster.home("alice").parent / KEPT
    if kept.exists() and cluster.status().state == "up":
        raise ConfigError(
            "the cluster of an earlier demo was kept and still runs; "
            f"end it with: hydro cluster down --dir {cluster.spec.directory}"
        )
    cluster.down()


def _end(cluster: Cluster) -> None:
    """Stops the cluster; a second ^C would leave half of it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cluster.down()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _ending_is_an_interrupt() -> Iterator[None]:
    """A closed terminal or a `kill` ends the demo like ^C: with its cluster."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _show_end_of(name: str, job: Job, console: Console) -> None:
    lines = last_lines(job.output, TAIL_LINES)
    if lines:
        console.print(f"the end of the output of the {name} job:", highlight=False)
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _keep_logs(road: Road, logs: Path) -> None:
    """Copies the jobs' outputs and the daemons' logs out of the cluster, which will go."""
    found = {f"{name}.out": job.output for name, job in road.jobs().items()}
    if road.cluster.log_dir.exists():
        found |= {path.name: path for path in road.cluster.log_dir.iterdir()}
    for name, path in found.items():
        if path.is_file():
            shutil.copyfile(path, logs / name)


def _how_to_use(directory: Path) -> str:
    at = f"--dir {directory}"
    hydro = "hydro" if shutil.which("hydro") else str(Path(sys.executable).with_name("hydro"))
    return "\n".join(
        [
            "the cluster still runs; alice's and bob's homes hold the examples:",
            f"  {hydro} cluster run {at} --user alice -- sh -c "
            "'cd gpt_pipeline && sbatch --hydro-bubble train.sbatch'",
            f"  {hydro} cluster run {at} --user bob -- sh -c "
            "'cd digits && rm -r digits.hydro && sbatch --bubbles=2 study.sbatch'",
            f"  {hydro} status {at}          who lends, who trains in it, what it costs",
            f"  {hydro} cluster down {at}    ends it, and removes all of it",
        ]
    )
