"""Trains the best candidates of a study on its target, here, epoch by epoch."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydro_hpc.errors import StudyError
from hydro_hpc.study.alone import Training
from hydro_hpc.study.proof import model_of
from hydro_hpc.study.randomness import seeded
from hydro_hpc.study.trial import TrialFailedError
from hydro_hpc.surrogate.transfer.eager import Done, Train, Wait, WaitsFor, decide
from hydro_hpc.surrogate.transfer.records import Record, Records, known_records
from hydro_hpc.surrogate.transfer.standing import (
    Candidate,
    Standing,
    read_standing,
    require_candidate,
)
from hydro_hpc.surrogate.transfer.target import (
    has_surrogate,
    require_batch,
    target_batch_size,
    target_epochs,
    target_training,
)

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.folder import StudyFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """After an epoch on the target (`record`), before a candidate's first one here (`begins`), or
    before a wait for the study (`waits_for`).
    """

    standing: Standing
    records: dict[int, Record]
    record: Record | None = None
    begins: Candidate | None = None
    waits_for: WaitsFor | None = None


def verify(
    study: Study, folder: StudyFolder, *, count: int, wait: Callable[[], None]
) -> Iterator[Progress]:
    """Trains the best `count`, beside the study from its half on, and goes on where it was left.

    `wait` returns when it is time to look at the study again. Waiting ends with the study's own
    process. StudyError if the study ends without a candidate, its model is another than when its
    trials ran, or its data are too few for a batch of the target.
    """
    read_standing(folder, study.description)  # before a folder is made in a place that is wrong
    require_batch(study)
    study.keep_rules(folder.rules)
    records = Records(folder.targets)
    on_target: OnTarget | None = None
    try:
        while True:
            standing = read_standing(folder, study.description)
            known = records_of(study, standing, folder.targets)
            ended = {number for number, record in known.items() if record.has_ended}
            current = None if on_target is None else on_target.candidate.number
            match decide(standing, ended, current=current, count=count):
                case Done():
                    require_candidate(study.name, standing)
                    return
                case Wait(what=what):
                    yield Progress(standing=standing, records=known, waits_for=what)
                    wait()
                case Train(candidate=candidate):
                    if on_target is None or current != candidate.number:
                        study.rules_of(candidate.params)
                        on_target = OnTarget(study, candidate, records)
                        yield Progress(standing=standing, records=known, begins=candidate)
                    record = on_target.train_epoch()
                    known[record.number] = record
                    yield Progress(standing=standing, records=known, record=record)
    finally:
        records.close()


def chosen(
    standing: Standing, records: dict[int, Record], direction: str
) -> tuple[Candidate, float | None] | None:
    """The candidate to transfer, and its value on the target: the best there; while none has come
    to its end there, the study's own best of those that have not failed on it. None if all have.
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
    failed = {number for number, record in records.items() if record.state == "failed"}
    return next(((c, None) for c in standing.candidates if c.number not in failed), None)


def records_of(study: Study, standing: Standing, directory: Path) -> dict[int, Record]:
    """What is known of the study's candidates on its target, as it is now and in the horizon that
    it has now.
    """
    known = known_records(directory)
    return {
        c.number: known[c.number]
        for c in standing.candidates
        if c.number in known and _training_of(known[c.number]) == _begun(study, c)
    }


def _training_of(record: Record) -> Record:
    """As it was before its first epoch."""
    return replace(record, values=(), state="in work", reason="")


def _begun(study: Study, candidate: Candidate) -> Record:
    return Record(
        number=candidate.number,
        epochs=target_epochs(study),
        batch_size=target_batch_size(study, candidate.params),
        model=_model_of(study),
    )


@cache
def _model_of(study: Study) -> str | None:
    return model_of(study) if has_surrogate(study) else None


class OnTarget:
    """One candidate's training on the target. What it raises is its own end, not the study's."""

    def __init__(self, study: Study, candidate: Candidate, records: Records) -> None:
        self.candidate = candidate
        self._study = study
        self._records = records
        begun = _begun(study, candidate)
        state = records.state_of(candidate.number)
        is_of_now = state is not None and (begun.epochs, begun.batch_size, begun.model) == (
            state["epochs"],
            state["batch_size"],
            state.get("identity"),
        )
        self._state: dict[str, Any] | None = state if is_of_now else None
        values = () if self._state is None else tuple(self._state["values"])
        self._record = replace(begun, values=values)

    @cached_property
    def _training(self) -> Training:
        return target_training(self._study, self.candidate.params, self.candidate.seed)

    def train_epoch(self) -> Record:
        """Returns how far it has come; it is stored, too."""
        try:
            self._train_epoch()
        except TrialFailedError as error:
            self._end_as_failed(str(error))
        except StudyError:
            raise
        except Exception as error:
            log = self._records.keep_log(self.candidate.number, traceback.format_exc())
            self._end_as_failed(f"{type(error).__name__}: {error} (traceback in {log})")
        return self._record

    def _train_epoch(self) -> None:
        training = self._training
        with seeded(self.candidate.seed):
            if self._state is not None:
                self._load(training, self._state)
            training.train_epoch()
            values = (*self._record.values, training.value())
            self._state = {
                **training.state(),
                "values": list(values),
                "epochs": self._record.epochs,
                "batch_size": self._record.batch_size,
                "identity": self._record.model,
            }
        is_last = training.epochs_done >= self._record.epochs
        if is_last and not math.isfinite(values[-1]):
            raise TrialFailedError(f"its value is {values[-1]}")
        self._record = replace(
            self._record, values=values, state="complete" if is_last else "in work"
        )
        self._records.keep(self._record, self._state)

    def _load(self, training: Training, state: dict[str, Any]) -> None:
        try:
            training.load(state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise self._records.unusable(self._record.number) from error

    def _end_as_failed(self, reason: str) -> None:
        self._record = replace(self._record, state="failed", reason=reason)
        self._records.keep(self._record, None)
