"""The coordinator: looks at Slurm, pairs waiting gangs with lent devices, and tells Slurm.

`python -m slurm_plugin.coordinator [--period S] [--once] [--partition NAME] [--lock FILE]`, as root
or SlurmUser, anywhere that Slurm's commands work. It keeps nothing that matters: kill it and start
another.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, assert_never

from filelock import FileLock, Timeout

from hydro_hpc.errors import EXIT_DONE, ConfigError, HydroError, SlurmError
from slurm_plugin.commandline_client import CommandLineSlurm
from slurm_plugin.placement import Patience
from slurm_plugin.reconcile import (
    Action,
    Grace,
    HoldGang,
    MarkGang,
    Memory,
    PinGang,
    ReleaseGang,
    RequeueGang,
    reconcile,
)
from slurm_plugin.slurm import Slurm

DEFAULT_LOCK: Final = Path("/run/hydro-coordinator.lock")
DEFAULT_PERIOD_S: Final = 5.0
log = logging.getLogger("hydro.coordinator")


class Coordinator:
    """One look at Slurm and what follows from it, again and again. `clock` gives Unix seconds."""

    def __init__(
        self,
        slurm: Slurm,
        *,
        clock: Callable[[], float] = time.time,
        patience: Patience | None = None,
        grace: Grace | None = None,
    ) -> None:
        self._slurm = slurm
        self._clock = clock
        self._patience = patience or Patience()
        self._grace = grace or Grace()
        self._memory = Memory()
        self._is_answered = True

    def run(self, stop: threading.Event, *, period_s: float) -> None:
        """Steps once a period until `stop` is set. Without Slurm it waits, and says so once."""
        while not stop.is_set():
            try:
                self.step()
            except SlurmError as error:
                if self._is_answered:
                    log.warning('event=slurm-down error="%s" next=retry', error)
                self._is_answered = False
            else:
                if not self._is_answered:
                    log.info("event=slurm-up")
                self._is_answered = True
            stop.wait(period_s)

    def step(self) -> None:
        """Observes, decides and acts once. Raises SlurmError if Slurm cannot be observed.

        An action that fails is logged, and what rests on it is left for the next step's facts.
        """
        facts = self._slurm.observe()
        self._memory, actions = reconcile(
            facts,
            self._memory,
            now_s=self._clock(),
            patience=self._patience,
            grace=self._grace,
        )
        failed: set[int] = set()
        for action in actions:
            if action.job_id in failed:
                continue
            try:
                perform(self._slurm, action)
            except SlurmError as error:
                failed.add(action.job_id)
                log.warning('event=refused job=%d error="%s"', action.job_id, error)


def perform(slurm: Slurm, action: Action) -> None:
    """Does one action and logs it. Raises SlurmError."""
    match action:
        case PinGang(job_id=job, placement=placement, mark=mark, delay_s=delay_s):
            slurm.pin(job, placement, mark=mark, delay_s=delay_s)
            nodes = ",".join(placement.nodes)
            log.info("event=pin job=%d nodes=%s gres=%s", job, nodes, placement.gres)
        case ReleaseGang(job_id=job):
            slurm.release(job)
            log.info("event=release job=%d", job)
        case HoldGang(job_id=job):
            slurm.hold(job)
            log.info("event=hold job=%d reason=place-lost", job)
        case RequeueGang(job_id=job):
            slurm.requeue_held(job)
            log.info("event=requeue job=%d reason=no-lender", job)
        case MarkGang(job_id=job, mark=mark, reason=reason):
            slurm.mark(job, mark)
            log.info('event=waits job=%d reason="%s"', job, reason)
        case _:
            assert_never(action)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="hydro: %(message)s", stream=sys.stderr)
    try:
        with _only_one(options.lock):
            _serve(options)
    except HydroError as error:
        print(f"hydro: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_DONE


def _serve(options: argparse.Namespace) -> None:
    coordinator = Coordinator(CommandLineSlurm(partition=options.partition))
    if options.once:
        coordinator.step()
        return
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    log.info("event=start period_s=%g partition=%s", options.period, options.partition)
    coordinator.run(stop, period_s=options.period)
    log.info("event=stop")


def _only_one(path: Path) -> FileLock:
    """Returns the held lock of the only coordinator; Slurm's state allows no second one."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SlurmError(f"another coordinator runs and holds {path}; stop it first") from None
    except OSError as error:
        raise ConfigError(
            f"the lock file {path} cannot be made ({error.strerror}); name another with --lock"
        ) from None
    return lock


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m slurm_plugin.coordinator",
        description="[hydro] pairs waiting gangs with lent devices; runs as root or SlurmUser",
    )
    parser.add_argument(
        "--period",
        type=_seconds,
        default=DEFAULT_PERIOD_S,
        metavar="SECONDS",
        help="how often to look at Slurm (default: %(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="look and act once, then end")
    parser.add_argument(
        "--partition",
        default="bubble",
        metavar="NAME",
        help="the tenant partition (default: %(default)s)",
    )
    parser.add_argument(
        "--lock",
        type=Path,
        default=DEFAULT_LOCK,
        metavar="FILE",
        help="held while it runs, so that there is only one (default: %(default)s)",
    )
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} s is not between 0.05 and 3600 s")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
