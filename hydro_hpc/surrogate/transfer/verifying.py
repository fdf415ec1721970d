"""Trains the best candidates of a study on its target, here, epoch by epoch."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hydro_hpc.study.alone import Training
from hydro_hpc.study.randomness import seeded
from hydro_hpc.study.trial import TrialFailedError
from hydro_hpc.surrogate.transfer.eager import Done, Train, Wait, decide
from hydro_hpc.surrogate.transfer.records import Record, Records
from hydro_hpc.surrogate.transfer.standing import (
    Candidate,
    Standing,
    read_standing,
    require_candidate,
)
from hydro_hpc.surrogate.transfer.target import target_epochs, target_training

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.folder import StudyFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """After an epoch on the target (`record`), or before a wait for the study (None)."""

    standing: Standing
    records: dict[int, Record]
    record: Record | None


def verify(
    study: Study, folder: StudyFolder, *, count: int, wait: Callable[[], None]
) -> Iterator[Progress]:
    """Trains the best `count`, beside the study from its half on, and goes on where it was left.

    `wait` returns when it is time to look at the study again. Waiting ends with the study's own
    process. StudyError if the study ends without a candidate.
    """
    read_standing(folder, study.description)  # before a folder is made in a place that is wrong
    records = Records(folder.targets)
    on_target: OnTarget | None = None
    try:
        while True:
            standing, known = read_standing(folder, study.description), records.all()
            ended = {number for number, record in known.items() if record.has_ended}
            current = None if on_target is None else on_target.candidate.number
            match decide(standing, ended, current=current, count=count):
                case Done():
                    require_candidate(study.name, standing)
                    return
                case Wait():
                    yield Progress(standing=standing, records=known, record=None)
                    wait()
                case Train(candidate=candidate):
                    if on_target is None or current != candidate.number:
                        on_target = OnTarget(study, candidate, records)
                    record = on_target.train_epoch()
                    known[record.number] = record
                    yield Progress(standing=standing, records=known, record=record)
    finally:
        records.close()


def chosen(
    standing: Standing, records: dict[int, Record], direction: str
) -> tuple[Candidate, float | None] | None:
    """The candidate to transfer, and its value on the target: the best there; the study's own best
    while nothing is verified.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    verified = [
        (sign * records[c.number].values[-1], c)
        for c in standing.candidates
        if c.number in records and records[c.number].state == "complete"
    ]
    if verified:
        value, best = min(verified, key=lambda pair: pair[0])
        return best, sign * value
    return (standing.candidates[0], None) if standing.candidates else None


class OnTarget:
    """One candidate's training on the target. What it raises is its own end, not the study's."""

    def __init__(self, study: Study, candidate: Candidate, records: Records) -> None:
        self.candidate = candidate
        self._study = study
        self._records = records
        self._state: dict[str, Any] | None = records.state_of(candidate.number)
        values = () if self._state is None else tuple(self._state["values"])
        self._record = Record(number=candidate.number, values=values)

    @cached_property
    def _training(self) -> Training:
        return target_training(self._study, self.candidate.params, self.candidate.seed)

    def train_epoch(self) -> Record:
        """Returns how far it has come; it is stored, too."""
        try:
            self._train_epoch()
        except TrialFailedError as error:
            self._end_as_failed(str(error))
        except Exception as error:
            log = self._records.keep_log(self.candidate.number, traceback.format_exc())
            self._end_as_failed(f"{type(error).__name__}: {error} (traceback in {log})")
        return self._record

    def _train_epoch(self) -> None:
        training = self._training
        with seeded(self.candidate.seed):
            if self._state is not None:
                training.load(self._state)
            training.train_epoch()
            values = (*self._record.values, training.value())
            self._state = {**training.state(), "values": list(values)}
        is_last = training.epochs_done >= target_epochs(self._study)
        self._record = replace(
            self._record, values=values, state="complete" if is_last else "in work"
        )
        self._records.keep(self._record, self._state)

    def _end_as_failed(self, reason: str) -> None:
        self._record = replace(self._record, state="failed", reason=reason)
        self._records.keep(self._record, None)
