"""What `hydro transfer` says while it verifies: what it waits for, and what it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from hydro_hpc.surrogate.transfer.eager import WaitsFor, half_of
from hydro_hpc.surrogate.transfer.records import Record
from hydro_hpc.surrogate.transfer.standing import Candidate, Standing
from hydro_hpc.surrogate.transfer.target import target_epochs
from hydro_hpc.surrogate.transfer.verifying import Progress, chosen

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study

SAY_S: Final = 10.0  # at least, between two lines about a wait


class StatusLines:
    """One line for each step, and few for a wait, however often the study is looked at."""

    def __init__(self, study: Study, *, count: int | None) -> None:
        """`count`: how many are verified; None if none is."""
        self._study = study
        self._count = count
        self._epochs = target_epochs(study)
        self._said_s: float | None = None  # when a wait was spoken of last
        self._last = ""
        self._began_s = 0.0  # the epoch that is trained

    def line(self, progress: Progress, *, now_s: float) -> str:
        """What is new, empty if that is nothing."""
        if progress.waits_for is not None:
            return self._of_wait(progress.standing, progress.waits_for, now_s)
        self._said_s = None
        began_s, self._began_s = self._began_s, now_s
        if progress.begins is not None:
            return self._of_beginning(progress.begins, progress.records)
        if progress.record is not None:
            return self._of_epoch(progress.record, now_s - began_s)
        return self._of_end(progress)

    def _of_wait(self, standing: Standing, what: WaitsFor, now_s: float) -> str:
        done = f"{standing.ended} of {standing.planned} trials have ended"
        if what is WaitsFor.HALF:
            done = f"{standing.ended} of {half_of(standing.planned)} trials have ended"
        verified = f"its {self._count} best are verified; " if what is WaitsFor.REST else ""
        text = f"study {self._study.name}: {verified}waits for {what.value}: {done}" + (
            f", {standing.in_work} in work"
        )
        is_early = self._said_s is not None and now_s - self._said_s < SAY_S
        if is_early or (self._said_s is not None and text == self._last):
            return ""
        self._said_s, self._last = now_s, text
        return text

    def _of_beginning(self, candidate: Candidate, records: dict[int, Record]) -> str:
        known = records.get(candidate.number)
        after = f" after epoch {len(known.values)}" if known and known.values else ""
        device = f"on the CPU with {_threads(torch.get_num_threads())}"
        return (
            f"target, trial {candidate.number}: trains{after} to epoch {self._epochs}, here, "
            f"{device}, which should be this process's own; {candidate.value:.6g} in the study"
        )

    def _of_epoch(self, record: Record, took_s: float) -> str:
        where = f"target, trial {record.number}"
        if record.state == "failed":
            return f"{where}: failed: {record.reason}"
        value = f"{record.values[-1]:.6g}"
        return f"{where}, epoch {len(record.values)} of {self._epochs}: {value} ({took_s:.3g} s)"

    def _of_end(self, progress: Progress) -> str:
        standing = progress.standing
        best = standing.candidates[0]
        is_left = standing.ended < standing.planned and not standing.is_running
        text = (
            f"study {self._study.name}: {standing.ended} of {standing.planned} trials have ended"
            f"{', and it is not running' if is_left else ''}; "
            f"best is trial {best.number}: {best.value:.6g} {best.params}"
        )
        found = chosen(standing, progress.records, self._study.direction)
        if found is None:
            return text
        candidate, value = found
        if value is not None:
            return f"{text}\nbest on the target is trial {candidate.number}: {value:.6g}"
        if candidate != best:
            return (
                f"{text}\nits target failed there, so trial {candidate.number} is transferred, "
                f"which is not verified: {candidate.value:.6g}"
            )
        return text


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
