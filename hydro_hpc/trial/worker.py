"""The process that trains: one per lane, paused by its gate, watched by its supervisor.

It starts in the idle class (imports, data, binding run outside windows, where nothing else would
run), and from its first training step on does nothing on the device without the gate's leave.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Final

import torch

from hydro_hpc.config import Settings, load_settings
from hydro_hpc.errors import EXIT_FAILED, HydroError, LaneError
from hydro_hpc.page import Page
from hydro_hpc.page_layout import TrialState
from hydro_hpc.study.definition import Study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.gate import LaneGate, LeaveRequested
from hydro_hpc.trial.lane import TenantLane
from hydro_hpc.trial.messages import (
    AskTrials,
    Message,
    RankLeaves,
    StudyChecked,
    TrialEnded,
    TrialGivenUp,
    TrialKept,
    TrialReported,
    TrialsGiven,
)
from hydro_hpc.trial.slots import checkpoint_path
from hydro_hpc.trial.training import BundleTraining, Ended, as_trial

SLOTS: Final = 16
SLEEP_S: Final = 0.25
CHECKPOINT_EVERY_S: Final = 30.0  # for a kill without warning; who leaves stores anyway


class Worker:
    """Takes trials, trains them in a bundle, and hands results over; each is kept before its slot
    is used.
    """

    def __init__(
        self, study: Study, folder: StudyFolder, gate: LaneGate, channel: Channel, page: Page
    ) -> None:
        self._study = study
        self._folder = folder
        self._gate = gate
        self._channel = channel
        self._page = page
        self._training: BundleTraining | None = None
        self._unkept: set[int] = set()
        self._reserve: list[Trial] = []  # the next trials, asked for before their slots are free
        self._num_asked = 0
        self._is_over = False

    def run(self, settings: Settings, num_slots: int) -> None:
        """Trains until the study is over. Raises LeaveRequested, LaneError, FusionError,
        StudyError.
        """
        trials = self._first_trials(num_slots)
        if trials:
            self._training = BundleTraining(
                self._study,
                self._folder,
                self._gate,
                trials,
                unit_ns=int(settings.unit_us * 1000),
                report=self._report if self._study.pruner != "none" else None,
            )
            self._say_if_not_fused(self._training)
        self._page.set("num_slots", len(trials))
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection in mid-window would overrun; there is one per checkpoint
        self._page.set("state", TrialState.TRAINING)
        stored_s = time.monotonic()
        while not self._is_finished():
            self._exchange()
            if self._training is None or not self._training.has_work():
                continue
            for ended in self._training.step():
                self._tell(ended)
            self._refill(self._training)
            if time.monotonic() - stored_s > CHECKPOINT_EVERY_S:
                self._training.checkpoint_in_windows()
                gc.collect()
                stored_s = time.monotonic()

    def _say_if_not_fused(self, training: BundleTraining) -> None:
        reason = training.why_not_fused
        if reason and os.environ.get("SLURM_PROCID", "0") == "0":
            print(f"hydro-trial: trials are exact but not fused: {reason}", flush=True)

    def leave(self) -> None:
        """Stores what is in work; the lane may be gone, so no window is waited for."""
        if self._training is not None:
            self._training.checkpoint()

    def _first_trials(self, count: int) -> list[Trial]:
        """Returns trials whose models can be built, `count` of them unless the study has fewer."""
        buildable: list[Trial] = []
        self._ask(count, is_first=True)
        while len(buildable) < count and not (self._is_over and not self._reserve):
            self._wait_for_trials()
            while self._reserve and len(buildable) < count:
                trial = self._reserve.pop(0)
                try:
                    self._study.build_model(trial.params, trial.seed)
                except Exception as error:
                    log = self._folder.write_log(trial.number, traceback.format_exc())
                    reason = f"{type(error).__name__}: {error} (see {log})"
                    self._tell(Ended(number=trial.number, state="failed", reason=reason))
                else:
                    buildable.append(trial)
            missing = count - len(buildable)
            if missing and not self._num_asked and not self._is_over:
                self._ask(missing)
        return buildable

    def _wait_for_trials(self) -> None:
        for _, message in self._channel.receive(timeout_s=SLEEP_S):
            self._take(message)
        self._gate.check()

    def _refill(self, training: BundleTraining) -> None:
        """Puts the next trials into free slots, and asks in time for those that will be needed."""
        while self._reserve and training.num_free:
            failed = training.begin(self._reserve.pop(0))
            if failed is not None:
                self._tell(failed)
        wanted = training.num_free + training.num_ending
        missing = wanted - len(self._reserve) - self._num_asked
        if missing > 0 and not self._is_over:
            self._ask(missing)

    def _is_finished(self) -> bool:
        has_work = self._training is not None and self._training.has_work()
        return self._is_over and not (has_work or self._reserve or self._unkept)

    def _exchange(self) -> None:
        """Takes what has come; sleeps for it when there is nothing to train."""
        has_work = self._training is not None and self._training.has_work()
        expects = self._num_asked or self._unkept or self._study.pruner != "none"
        if has_work and not expects:
            return
        if not has_work:
            self._gate.pause()
            self._gate.check()
        for _, message in self._channel.receive(timeout_s=0.0 if has_work else SLEEP_S):
            self._take(message)

    def _take(self, message: Message) -> None:
        training = self._training
        if isinstance(message, TrialsGiven):
            self._reserve += [as_trial(body) for body in message.trials]
            self._is_over = message.is_over
            self._num_asked = 0 if message.is_over else self._num_asked - len(message.trials)
        elif isinstance(message, TrialKept):
            self._unkept.discard(message.number)
            self._page.set("trials_done", self._page.get("trials_done") + 1)
            checkpoint_path(self._folder.checkpoints, message.number).unlink(missing_ok=True)
        elif isinstance(message, TrialGivenUp) and training is not None:
            ended = training.give_up(message.number)
            if ended is not None:
                self._tell(ended)
        if training is not None:
            self._refill(training)

    def _tell(self, ended: Ended) -> None:
        self._unkept.add(ended.number)
        self._send(
            TrialEnded(
                number=ended.number, state=ended.state, value=ended.value, reason=ended.reason
            )
        )

    def _report(self, number: int, epoch: int, value: float) -> None:
        self._send(TrialReported(number=number, epoch=epoch, value=value))

    def _ask(self, count: int, *, is_first: bool = False) -> None:
        self._num_asked += count
        self._send(AskTrials(count=count, is_first=is_first))

    def _send(self, message: Message) -> None:
        self._channel.send(message, rank=0)


def main() -> int:
    arguments = _parse()
    channel = Channel(socket.socket(fileno=arguments.channel))
    worker = None
    try:
        torch.set_num_threads(1)
        settings = load_settings(os.environ)
        lane = TenantLane(arguments.lane)
        page = lane.trial_page()
        page.set("state", TrialState.STARTING)
        gate = lane.gate(settings, trial=page)
        signal.signal(signal.SIGTERM, lambda *_: gate.leave())
        study = load_study(arguments.study)
        study.check()
        channel.send(StudyChecked(description=study.description.to_json()), rank=0)
        folder = StudyFolder(arguments.folder, study.name)
        worker = Worker(study, folder, gate, channel, page)
        worker.run(settings, arguments.slots or study.slots or SLOTS)
        page.set("state", TrialState.ENDED)
    except LeaveRequested:
        if worker is not None:
            worker.leave()
    except LaneError as error:
        if worker is not None:
            worker.leave()
        return _give_up(channel, str(error), error.exit_code)
    except HydroError as error:
        return _give_up(channel, str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        return _give_up(channel, f"{type(error).__name__}: {error}", EXIT_FAILED)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hydro-trial worker")
    parser.add_argument("--lane", required=True)
    parser.add_argument("--channel", type=int, required=True, help="file descriptor")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the study's folder is")
    parser.add_argument("--slots", type=int)
    return parser.parse_args()


def _give_up(channel: Channel, reason: str, exit_code: int) -> int:
    channel.send(RankLeaves(reason=reason, exit_code=exit_code), rank=0)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
