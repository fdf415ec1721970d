"""When runs began and ended, noted in few instructions and written later.

A *run* is the time between two pauses. When it ends, the primary may already want its device back,
and when one begins, every instruction before the trial's own is bubble time lost. So a run is
written in the middle of a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hydro_hpc.page import Page
from hydro_hpc.page_layout import RecordKind
from hydro_hpc.trial.runs import EndedRun, RunWriter


class RunEnd(Protocol):
    """When a run ended, and whether its window had closed before, at `closed_ns`."""

    ended_ns: int
    ended_device_ns: int
    was_closed: bool
    closed_ns: int


class RunNotes:
    """The runs of one worker. `trial` is the page it writes, None if another process writes it."""

    def __init__(
        self,
        *,
        stage: Page,
        trial: Page | None,
        now_ns: Callable[[], int],
        device_ns: Callable[[], int],
    ) -> None:
        self.is_running = False
        self.num_samples = 0  # trained since the run began; who trains adds to it
        self.kind = RecordKind.RUN
        self.unwritten: list[tuple[int, ...]] = []
        self._step_at = stage.word_index("step")
        self._stage_words = stage.words
        self._writer = None if trial is None else RunWriter(trial)
        self._trial_words = None if trial is None else trial.words
        self._ack_at = 0 if trial is None else trial.word_index("ack_word")
        self._now_ns = now_ns
        self._device_ns = device_ns
        self._word = self._step = 0
        self._started_ns = self._started_device_ns = 0

    def begin(self, word: int) -> None:
        """A run begins, in the window that `word` opened."""
        self.is_running = True
        self._word = word
        self._step = self._stage_words[self._step_at]
        self._started_ns = self._now_ns()
        self._started_device_ns = self._device_ns()
        if self._trial_words is not None:
            self._trial_words[self._ack_at] = word

    def end(self, ended: RunEnd) -> None:
        """The run has ended."""
        self.is_running = False
        is_late = ended.was_closed and ended.closed_ns >= self._started_ns
        self.unwritten.append(
            (
                self.kind,
                self._word,
                self._step,
                self._started_ns,
                ended.ended_ns,
                ended.ended_device_ns - self._started_device_ns,
                max(0, ended.ended_ns - ended.closed_ns) if is_late else 0,
                self.num_samples,
            )
        )
        self.num_samples = 0

    def write(self, *, margin_ns: int) -> None:
        """Writes the runs that have ended and are not written yet."""
        for run in self.unwritten:
            if self._writer is not None:
                self._writer.write(EndedRun(RecordKind(run[0]), *run[1:]), margin_ns=margin_ns)
        self.unwritten.clear()
