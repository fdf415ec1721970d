"""The gang's search: a process of its own beside rank 0, so that Optuna never delays a supervisor.

It passes the gate before each question or answer, like everything that uses the device. No torch
here.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import sys
from collections import deque
from pathlib import Path
from typing import cast

from hydro_hpc.config import load_settings
from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, HydroError
from hydro_hpc.page_layout import RecordKind
from hydro_hpc.study.description import StudyDescription
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Search
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.gate import LaneGate, LeaveRequested
from hydro_hpc.trial.lane import TenantLane
from hydro_hpc.trial.messages import (
    AskTrials,
    Message,
    RankLeaves,
    TrialEnded,
    TrialGivenUp,
    TrialKept,
    TrialReported,
    TrialsGiven,
    TrialsParked,
)


class GangSearch:
    """Which trial is with which rank, on top of a Search. Every question to it passes the gate."""

    def __init__(self, search: Search, gate: LaneGate) -> None:
        self._search = search
        self._gate = gate
        self._given: dict[int, dict[int, dict[str, object]]] = {}  # rank -> number -> trial
        self._parked: deque[dict[str, object]] = deque()  # with nobody, stored

    def answer(self, rank: int, message: Message) -> Message | None:
        """Does what a worker wants and returns what he is told, None: nothing."""
        match message:
            case AskTrials():
                return self.ask(rank, message)
            case TrialsParked():
                self.park(rank, message)
                return None
            case TrialEnded():
                return self.tell(rank, message)
            case TrialReported():
                return self.report(message)
        raise AssertionError(f"not for the search: {message}")

    def ask(self, rank: int, message: AskTrials) -> TrialsGiven:
        """Returns up to `count` trials; a restarted worker gets back what its rank had."""
        mine = self._given.setdefault(rank, {})
        trials = list(mine.values()) if message.is_first else []
        while len(trials) < message.count:
            trial = self._next()
            if trial is None:
                break
            trials.append(trial)
            mine[cast(int, trial["number"])] = trial
        return TrialsGiven(trials=trials, is_over=self._is_over(message, len(trials)))

    def _next(self) -> dict[str, object] | None:
        if self._parked:
            return self._parked.popleft()
        with self._gate.work("ask"):
            trial = self._search.ask()
        return None if trial is None else dataclasses.asdict(trial)

    def _is_over(self, message: AskTrials, num_given: int) -> bool:
        if message.count:
            return num_given < message.count
        with self._gate.work("is done"):
            return self._search.is_done()

    def park(self, rank: int, message: TrialsParked) -> None:
        """Takes trials back unfinished; they are the next to be handed out."""
        mine = self._given.setdefault(rank, {})
        self._parked += [mine.pop(number) for number in message.numbers if number in mine]

    def report(self, message: TrialReported) -> TrialGivenUp | None:
        with self._gate.work("report"):
            gives_up = self._search.report(message.number, message.epoch, message.value)
        return TrialGivenUp(number=message.number) if gives_up else None

    def tell(self, rank: int, message: TrialEnded) -> TrialKept:
        with self._gate.work("tell"):
            self._search.tell(
                message.number, message.value, state=message.state, reason=message.reason
            )
        self._given.get(rank, {}).pop(message.number, None)
        return TrialKept(number=message.number)


def serve(channel: Channel, search: GangSearch, gate: LaneGate) -> None:
    """Answers until the supervisor closes the channel."""
    while channel.is_open:
        for rank, message in channel.receive(timeout_s=60.0):
            answer = search.answer(rank, message)
            if answer is not None:
                channel.send(answer, rank=rank)
        gate.pause()


def close(search: Search, folder: StudyFolder) -> int:
    """Says how the study stands. Returns EXIT_FAILED if it is over and no trial completed."""
    results = search.results()
    counts = f"{results.completed} trials completed, {results.failed} failed"
    counts += f", {results.pruned} pruned" if results.pruned else ""
    if not search.is_done():
        print(f"hydro-trial: {counts} so far; kept in {folder.path}", flush=True)
    elif results.best is None:
        print(f"hydro-trial: {counts}; trial 0: {search.outcome(0)}", flush=True)
        return EXIT_FAILED
    else:
        best = results.best
        for line in results.at_edges:
            print(f"hydro-trial: {line}", flush=True)
        params = ", ".join(f"{name}={_short(value)}" for name, value in best.params.items())
        found = f"best: {best.value:.6g} by trial {best.number} with {params}"
        print(f"hydro-trial: {counts}; {found}; kept in {folder.path}", flush=True)
    return EXIT_DONE


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="hydro-trial searcher")
    parser.add_argument("--lane", required=True)
    parser.add_argument("--channel", type=int, required=True, help="file descriptor")
    parser.add_argument("--folder", type=Path, required=True, help="where the study's folder is")
    parser.add_argument("--description", required=True, help="JSON")
    arguments = parser.parse_args()
    channel = Channel(socket.socket(fileno=arguments.channel))
    try:
        lane = TenantLane(arguments.lane)
        gate = lane.gate(load_settings(os.environ), trial=None)
        signal.signal(signal.SIGTERM, lambda *_: gate.leave())
        description = StudyDescription.from_json(arguments.description)
        folder = StudyFolder(arguments.folder, description.name)
        search = Search(description, folder)
        try:
            with gate.doing(RecordKind.OTHER):
                serve(channel, GangSearch(search, gate), gate)
            return close(search, folder)
        finally:
            search.close()
    except LeaveRequested:
        return 0
    except HydroError as error:
        channel.send(RankLeaves(reason=str(error), exit_code=error.exit_code), rank=0)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
