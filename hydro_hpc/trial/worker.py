"""Trains a study's trials: takes them from the search, and hands their results over.

It trains the trials of one shape at a time (`grouping`). Those of others wait; once they are as
many as the bundle may have slots, it takes no more trials, and when its bundle is through, the
largest group of those that wait is the next.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from typing import Final

from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page
from hydro_hpc.page_layout import RecordKind, TrialState
from hydro_hpc.study.definition import Study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.builder import BundleBuilder
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.grouping import Group, Grouping, largest
from hydro_hpc.trial.interruptible import CutBeforeOperations
from hydro_hpc.trial.messages import (
    AskTrials,
    Message,
    TrialEnded,
    TrialGivenUp,
    TrialKept,
    TrialReported,
    TrialsGiven,
    TrialsParked,
)
from hydro_hpc.trial.room import MemoryShortError, Room
from hydro_hpc.trial.slots import checkpoint_path
from hydro_hpc.trial.training import BundleTraining, Ended, as_trial

SLEEP_S: Final = 0.25
ASK_EVERY_S: Final = 5.0  # a worker without memory, whether the study is over
CHECKPOINT_EVERY_S: Final = 30.0  # for a kill without warning; who leaves stores anyway


class Worker:
    """Takes trials, trains them in a bundle, and hands results over; each is kept before its slot
    is used.
    """

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        gate: LaneGate,
        channel: Channel,
        page: Page,
        room: Room,
        *,
        unit_ns: int,
    ) -> None:
        self._study = study
        self._folder = folder
        self._gate = gate
        self._channel = channel
        self._page = page
        self._room = room
        report = self._report if study.pruner != "none" else None
        self._bundles = BundleBuilder(
            study, folder, gate, page, room, unit_ns=unit_ns, report=report
        )
        self._inbox: deque[Message] = deque()
        self._unkept: set[int] = set()
        self._reserve: list[Trial] = []  # the next trials, asked for before their slots are free
        self._held: dict[int, Trial] = {}  # all that this worker has to bring to an end
        self._grouping = Grouping(study)
        self._groups: dict[int, Group] = {}  # of the trials held, as far as known
        self._group: Group | None = None  # of the bundle
        self._num_asked = 0
        self._num_unanswered = 0  # questions
        self._num_stale = 0  # of them, those asked before trials were parked
        self._is_over = False
        self._asked_if_done_s = 0.0

    def run(self, num_slots: int) -> None:
        """Trains until the study is over. Raises LeaveRequested, LaneError, FusionError,
        StudyError.
        """
        self._room.wanted = num_slots
        trials = self._first_trials(num_slots)
        if trials:
            self._build()
        else:
            self._page.set("state", TrialState.TRAINING)
        while not self._is_finished():
            is_short = False
            try:
                self._room.look()
                self._go_on()
            except MemoryShortError:
                is_short = True
            if is_short:  # not in the handler: what was raised keeps the bundle alive
                self._rebuild()

    def _go_on(self) -> None:
        """A step of the bundle, if there is one with work, and what is due besides."""
        self._exchange()
        if self._room.slots_to_grow_to:
            self._grow_if_there_is_work(self._room.slots_to_grow_to)
        elif not self._room.slots:
            self._ask_if_done()
        training = self._bundles.training
        if training is None:
            return
        if not training.has_work():
            if self._reserve and not self._num_asked:  # of other groups
                self._rebuild()
            return
        for ended in training.step():
            self._tell(ended)
        self._refill(training)
        if time.monotonic() - self._bundles.stored_s > CHECKPOINT_EVERY_S:
            self._bundles.store()

    def _rebuild(self) -> None:
        """Gives the bundle's memory back, and builds what fits instead."""
        self._bundles.take_down()
        self._build()

    def _build(self) -> None:
        """Makes a bundle of the largest group of the trials held, as many as fit. The others wait,
        or are parked if memory is short.
        """
        trials = [trial for _, trial in sorted(self._held.items()) if self._can_be_built(trial)]
        chosen = largest(trials, self._known_group)
        if chosen and not self._room.take_up(self._known_group(chosen[0])):
            self._bundles.measure_small(chosen)
        wanted = min(len(chosen), self._room.wanted)
        slots = self._room.fitting(wanted)
        self._group = self._known_group(chosen[0]) if slots else None
        rest = [trial for trial in trials if trial not in chosen[:slots]]
        self._reserve = rest if slots == wanted else []
        self._park([] if slots == wanted else rest)
        self._bundles.build(chosen[:slots])

    def _park(self, trials: list[Trial]) -> None:
        """Gives trials back to the search, for whoever of the gang has memory first."""
        if not trials:
            return
        for trial in trials:
            del self._held[trial.number]
        self._is_over = False
        self._num_stale = self._num_unanswered
        self._send(TrialsParked(numbers=[trial.number for trial in trials]))

    def _grow_if_there_is_work(self, slots: int) -> None:
        if self._room.slots:
            self._sort_reserve()
        fitting = len(self._held) - self._num_others()
        missing = slots - fitting - self._num_asked
        if missing > 0 and self._may_ask():
            self._ask(missing)
        elif not self._num_asked and fitting > self._room.slots:
            self._bundles.store()
            self._rebuild()

    def _ask_if_done(self) -> None:
        """The parked trials may be with others of the gang, and be the last."""
        if self._reserve:  # given before memory went
            self._park(self._reserve)
            self._reserve = []
        if not self._num_unanswered and time.monotonic() - self._asked_if_done_s > ASK_EVERY_S:
            self._asked_if_done_s = time.monotonic()
            self._ask(0)

    def leave(self) -> None:
        """Stores what is in work; the lane may be gone, so no window is waited for."""
        self._bundles.store_ungated()

    def _first_trials(self, count: int) -> list[Trial]:
        """Returns trials whose models can be built, `count` of them of one group unless the study
        has fewer or as many of others have come first.
        """
        buildable: list[Trial] = []
        alike: list[Trial] = []
        self._ask(count, is_first=True)
        while len(alike) < count and not (self._is_over and not self._reserve):
            self._wait_for_trials()
            while self._reserve:
                trial = self._reserve.pop(0)
                if self._can_be_built(trial):
                    buildable.append(trial)
            alike = largest(buildable, self._known_group)
            if len(buildable) - len(alike) >= count:
                break
            missing = count - len(alike)
            if missing > 0 and not self._num_asked and not self._is_over:
                self._ask(missing)
        return buildable

    def _known_group(self, trial: Trial) -> Group:
        return self._groups[trial.number]

    def _sort_reserve(self) -> None:
        """Finds out the groups of the trials that have come, in windows where one is built. The
        rules of a surrogate take models of the target's size, and time: they are made beside.
        """
        for trial in [trial for trial in self._reserve if trial.number not in self._groups]:
            if self._grouping.knows(trial):
                self._groups[trial.number] = self._grouping.of(trial)
                continue
            if not self._study.has_rules(trial.params):
                with self._bundles.beside():
                    can_be_built = self._can_be_built(trial)
            else:
                with (
                    self._gate.doing(RecordKind.OTHER),
                    self._gate.work("group") as cut,
                    self._gate.unbroken(),
                    CutBeforeOperations(cut),
                ):
                    can_be_built = self._can_be_built(trial)
            if not can_be_built:
                self._reserve.remove(trial)

    def _num_others(self) -> int:
        """How many of the trials held cannot join the bundle."""
        if self._group is None:
            return 0
        return sum(self._groups.get(number) != self._group for number in self._held)

    def _may_ask(self) -> bool:
        return not self._is_over and self._num_others() < self._room.wanted

    def _can_be_built(self, trial: Trial) -> bool:
        """Ends the trial if its model or its optimizer cannot even be made."""
        try:
            self._groups[trial.number] = self._grouping.build(trial)
        except LaneError:
            raise
        except Exception as error:
            log = self._folder.write_log(trial.number, traceback.format_exc())
            reason = f"{type(error).__name__}: {error} (see {log})"
            self._tell(Ended(number=trial.number, state="failed", reason=reason))
            return False
        return True

    def _wait_for_trials(self) -> None:
        self._take_all(timeout_s=SLEEP_S)
        self._gate.check()

    def _refill(self, training: BundleTraining) -> None:
        """Puts the next trials into free slots, and asks in time for those that will be needed."""
        if not (training.num_free or training.num_ending):
            return
        self._sort_reserve()
        fitting = [t for t in self._reserve if self._known_group(t) == self._group]
        while fitting and training.num_free:
            trial = fitting.pop(0)
            self._reserve.remove(trial)
            failed = training.begin(trial)
            if failed is not None:
                self._tell(failed)
        wanted = training.num_free + training.num_ending
        missing = wanted - len(fitting) - self._num_asked
        if missing > 0 and self._may_ask():
            self._ask(missing)

    def _is_finished(self) -> bool:
        has_work = self._bundles.training is not None and self._bundles.training.has_work()
        return self._is_over and not (has_work or self._reserve or self._unkept)

    def _exchange(self) -> None:
        """Takes what has come; sleeps for it when there is nothing to train."""
        has_work = self._bundles.training is not None and self._bundles.training.has_work()
        expects = self._num_asked or self._unkept or self._study.pruner != "none"
        if has_work and not expects:
            return
        if not has_work:
            self._gate.pause()
            self._gate.check()
        self._take_all(timeout_s=0.0 if has_work else SLEEP_S)

    def _take_all(self, *, timeout_s: float) -> None:
        """Takes what has come; the rest comes next time if a window is waited for in between and
        memory is wanted back then.
        """
        self._inbox += (message for _, message in self._channel.receive(timeout_s))
        while self._inbox:
            self._take(self._inbox.popleft())

    def _take(self, message: Message) -> None:
        training = self._bundles.training
        if isinstance(message, TrialsGiven):
            trials = [as_trial(body) for body in message.trials]
            self._reserve += trials
            self._held.update((trial.number, trial) for trial in trials)
            self._num_unanswered -= 1
            is_stale = self._num_stale > 0
            self._num_stale -= is_stale
            self._is_over = message.is_over and not is_stale
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
        self._held.pop(ended.number, None)
        self._groups.pop(ended.number, None)
        self._send(
            TrialEnded(
                number=ended.number, state=ended.state, value=ended.value, reason=ended.reason
            )
        )

    def _report(self, number: int, epoch: int, value: float) -> None:
        self._send(TrialReported(number=number, epoch=epoch, value=value))

    def _ask(self, count: int, *, is_first: bool = False) -> None:
        self._num_asked += count
        self._num_unanswered += 1
        self._send(AskTrials(count=count, is_first=is_first))

    def _send(self, message: Message) -> None:
        self._channel.send(message, rank=0)
