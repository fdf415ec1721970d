"""Trains a bundle of trials inside windows: steps, checkpoints, and the next trial of a slot.

Every trial is at its own place: own batches (a function of its seed and epoch), own epoch, own
end. An exception or a loss that is not finite ends that trial alone; the others do not notice.
"""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hydro_hpc.errors import LaneError
from hydro_hpc.fusion import Bundle, bind, losses, trial_stream
from hydro_hpc.fusion.bundle import nothing
from hydro_hpc.fusion.choices import users_cache
from hydro_hpc.page_layout import RecordKind
from hydro_hpc.study.clipping import clip_bundle
from hydro_hpc.study.definition import Study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.losses import SlotLosses, loss_in_stream, repeatable
from hydro_hpc.study.optimizers import slot_optimizer
from hydro_hpc.study.trial import Outcome, Trial
from hydro_hpc.trial.batches import SlotBatches
from hydro_hpc.trial.evaluation import Evaluation
from hydro_hpc.trial.gate import Cut, Gate
from hydro_hpc.trial.interruptible import CutBeforeOperations
from hydro_hpc.trial.meter import Meter
from hydro_hpc.trial.not_fused import why_not_fused
from hydro_hpc.trial.slots import SlotCheckpoint, SlotRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A trial that left its slot."""

    number: int
    state: Outcome
    value: float | None = None
    reason: str = ""


class BundleTraining:
    """A bundle, its optimizer, and which trial is in which slot."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        gate: Gate,
        trials: Sequence[Trial],
        *,
        unit_ns: int,
        report: Callable[[int, int, float], None] | None,
    ) -> None:
        """Binds the models of `trials` into one bundle of as many slots: outside the gate, once.

        `report(number, epoch, value)` is called after each epoch, for a study that prunes. Raises
        FusionError if the models differ; what a user's model raises comes through.
        """
        self._study = study
        self._data = study.data()
        self._folder = folder
        self._gate = gate
        self._report = report
        self._slots: list[SlotRun | None] = [None] * len(trials)
        self._losses = SlotLosses(study.loss)
        self._clip_limits = [study.clip_limit(trial.params) for trial in trials]
        self._is_mid_step = False  # parameters, buffers and optimizer may not belong together
        models = [study.build_model(trial.params, trial.seed) for trial in trials]
        self._batches = SlotBatches(study, size=study.batch_size_of(trials[0].params))
        rows = slice(0, self._batches.size)
        self._bundle: Bundle = bind(
            models,
            example=(self._data.train_x[rows], self._data.train_y[rows]),
            loss=repeatable(study.loss),
            seeds=[trial.seed for trial in trials],
            choices=[folder.choices, users_cache()],
        )
        self._bundle.samples_calls = False  # that takes longer than a bubble
        settings = [study.optimizer_settings(trial.params) for trial in trials]
        rules = study.rules_of(trials[0].params)  # those of the trials' group
        self._optimizer = slot_optimizer(study.optimizer_name, self._bundle, settings, rules)
        self._optimizer.between = lambda: self._train_meter.point("optimizer")
        for slot, trial in enumerate(trials):
            self._begin(slot, trial)
        self._place_batches()
        self._leaves: list[nn.Module] = []
        self._train_meter: Meter = Meter(gate, unit_ns=unit_ns)  # hooked below
        self._loss_between = self._train_meter.named("loss between")
        self._evaluation = Evaluation(study, self._data, gate, self._bundle, unit_ns=unit_ns)
        self._evaluation.prepare()
        self._hook_leaves()
        self.checkpoint()  # the first one imports for seconds: here, not in a window

    @property
    def why_not_fused(self) -> str:
        """A sentence on why the trials of this bundle train one by one; empty if they are fused."""
        return why_not_fused(self._bundle.report)

    def has_work(self) -> bool:
        return bool(self._slots_in_work())

    def step(self) -> list[Ended]:
        """One optimizer step of every trial, in windows. Returns the trials that ended by it."""
        if not self._batches.num_plain:  # stored between an epoch's last step and its end
            return self._settle()
        if self._bundle.report.executor is not self._hooked_executor:
            self._hook_leaves()
        self._train_meter.begin()
        with self._gate.unbroken():
            self._is_mid_step = True
            try:
                values_F = self._forward_and_backward()
            except Exception:
                self._train_meter.abandon()
                self._is_mid_step = False
                return self._end_culprits()
            self._clip()
            self._train_meter.point("optimizer")
            self._optimizer.step()
            self._train_meter.point("zero_grad")
            self._optimizer.zero_grad()
            self._gate.num_samples += self._batches.size * sum(self._active)
            is_plain = self._move_on(values_F)
            ended = [] if is_plain else self._end_failed(values_F)
            self._train_meter.end()
            self._is_mid_step = False
        return ended if is_plain else ended + self._settle()

    def begin(self, trial: Trial) -> Ended | None:
        """Puts a trial into a free slot. Returns how it ended if its model cannot even be built."""
        slot = self._slots.index(None)
        self._batches.require(trial)
        with self._gate.doing(RecordKind.OTHER), self._gate.work("build") as cut:
            try:
                with self._gate.unbroken(), CutBeforeOperations(cut):
                    model = self._study.build_model(trial.params, trial.seed)
                self._study.check_settings(trial.params)
            except LaneError:
                raise
            except Exception as error:
                return self._failed(trial.number, error)
            cut("copy")
            self._bundle.between = cut
            try:
                self._bundle.replace(slot, model, seed=trial.seed)
            finally:
                self._bundle.between = nothing
            cut("begin")
            self._optimizer.reset_slot(slot, **self._study.optimizer_settings(trial.params))
            self._batches.note_positions()
            self._begin(slot, trial)
            self._place_batches()
            self._hook_leaves()
        return None

    def give_up(self, number: int) -> Ended | None:
        """Ends a trial that the search prunes, if it is still in work."""
        for slot, run in enumerate(self._slots):
            if run is not None and run.trial.number == number:
                ended = self._end(slot, Ended(number=number, state="pruned"))
                self._batches.note_positions()
                self._place_batches()
                return ended
        return None

    def checkpoint(self) -> None:
        """Stores every trial in work. Not gated: the caller knows whether the lane is his.

        In the middle of a step there is nothing to store; what was stored last stands.
        """
        if self._is_mid_step:
            return
        self._batches.note_positions()
        for slot in self._slots_in_work():
            self._store(slot)

    def checkpoint_in_windows(self) -> None:
        """The same, as gated work, while the trials go on."""
        with self._gate.doing(RecordKind.OTHER):
            self._batches.note_positions()
            self._place_batches()
            for slot in self._slots_in_work():
                with self._gate.work("checkpoint") as cut:
                    self._store(slot, cut)

    def _store(self, slot: int, cut: Cut = nothing) -> None:
        run = self._run(slot)
        model = self._bundle.unbind(slot).state_dict()
        cut("checkpoint optimizer")
        optimizer = self._optimizer.slot_state(slot)
        cut("checkpoint file")
        SlotCheckpoint(
            number=run.trial.number,
            epoch=run.epoch,
            position=run.position,
            model=model,
            optimizer=optimizer,
        ).save(self._folder.checkpoints)

    def _slots_in_work(self) -> list[int]:
        return [slot for slot, run in enumerate(self._slots) if run is not None]

    def _begin(self, slot: int, trial: Trial) -> None:
        """Notes that `trial` is in `slot`, and goes on from its checkpoint if it has one."""
        self._batches.require(trial)
        run = SlotRun(trial=trial, rows=self._study.batch_indices(trial.params, trial.seed, 0))
        stored = SlotCheckpoint.load(self._folder.checkpoints, trial.number)
        if stored is not None:
            model = self._study.build_model(trial.params, trial.seed)
            model.load_state_dict(stored.model)
            run.epoch, run.position = stored.epoch, stored.position
            run.rows = self._study.batch_indices(trial.params, trial.seed, run.epoch)
            self._bundle.replace(slot, model, seed=trial.seed, step=run.step)
            self._optimizer.load_slot_state(slot, stored.optimizer)
        self._slots[slot] = run
        self._clip_limits[slot] = self._study.clip_limit(trial.params)

    def _hook_leaves(self) -> None:
        """Makes every leaf of the bundle a point, if there are others than before."""
        self._hooked_executor = self._bundle.report.executor
        leaves = self._bundle.leaves()
        if [id(leaf) for leaf in leaves] == [id(leaf) for leaf in self._leaves]:
            return
        named = {str(number): leaf for number, leaf in enumerate(leaves)}
        self._train_meter.hook(named)
        self._evaluation.hook(named)
        self._leaves = leaves

    def _place_batches(self) -> None:
        """Lays the slots' batches side by side; counts the slots without a trial and those whose
        trial is in its last epoch.
        """
        self._batches.place(tuple(self._slots))
        self._active = [run is not None for run in self._slots]
        in_work = self._slots_in_work()
        last = self._study.epochs - 1
        self.num_free = len(self._slots) - len(in_work)
        self.num_ending = sum(self._run(slot).epoch == last for slot in in_work)
        self._weights_F = torch.tensor(self._active, dtype=torch.get_default_dtype())

    def _forward_and_backward(self) -> list[float]:
        """Leaves the gradients in the bundle. Returns each slot's loss."""
        point = self._train_meter.point
        inputs, targets = self._batches.next(point, self._bundle.fail)
        point("forward")
        outputs = self._bundle(inputs)
        point("loss")
        streams = self._bundle.streams
        with self._losses.of_step(streams.seeds, streams.steps) as loss:
            losses_F = losses(
                loss, outputs, targets, failed=self._note_failure, between=self._loss_between
            )
        point("sum")
        total = (losses_F * self._weights_F).sum()
        point("backward")
        total.backward()
        point("values")
        values: list[float] = losses_F.detach().tolist()
        return values

    def _clip(self) -> None:
        """Clips each slot's gradients by its own trial's limit, if the study does."""
        name = self._study.clip_name
        if name is not None:
            self._train_meter.point("clip")
            between = functools.partial(self._train_meter.point, "clip")
            clip_bundle(name, self._bundle, self._clip_limits, between)

    def _note_failure(self, slot: int, error: Exception) -> None:
        if self._active[slot]:  # what the loss says of an empty slot's outputs does not matter
            self._bundle.fail(slot, error)

    def _move_on(self, values_F: list[float]) -> bool:
        """Moves every trial on by one batch. Returns whether that is all there is to do."""
        return (
            self._batches.move_on()
            and all(map(math.isfinite, values_F))
            and not self._bundle.failures
        )

    def _end_failed(self, values_F: list[float]) -> list[Ended]:
        """Ends the trials that raised or whose loss is not finite any more."""
        self._batches.note_positions()
        ended = []
        raised = self._bundle.failures
        for slot in self._slots_in_work():
            run = self._run(slot)
            if slot in raised:
                ended.append(self._end(slot, self._failed(run.trial.number, raised[slot])))
            elif not math.isfinite(values_F[slot]):
                reason = f"its loss was {values_F[slot]} in epoch {run.epoch}, step {run.position}"
                ended.append(
                    self._end(slot, Ended(number=run.trial.number, state="failed", reason=reason))
                )
        return ended

    def _settle(self) -> list[Ended]:
        """Ends the trials that are through, and begins the others' next epochs."""
        slots = [
            s for s in self._slots_in_work() if self._run(s).position == len(self._run(s).rows)
        ]
        ended = self._finish_epochs(slots) if slots else []
        with self._gate.work("place batches"):
            self._place_batches()
        return ended

    def _finish_epochs(self, slots: list[int]) -> list[Ended]:
        """Starts the next epoch of these slots' trials, or ends them with their value."""
        last = self._study.epochs - 1
        due = [s for s in slots if self._report is not None or self._run(s).epoch == last]
        values = self._evaluation.values(due) if due else {}
        ended = []
        for slot in slots:
            run = self._run(slot)
            value = values.get(slot)
            if isinstance(value, Exception):
                ended.append(self._end(slot, self._failed(run.trial.number, value)))
                continue
            if self._report is not None and value is not None:
                self._report(run.trial.number, run.epoch, value)
            if run.epoch == last:
                done = Ended(number=run.trial.number, state="complete", value=value)
                ended.append(self._end(slot, done))
                continue
            run.epoch, run.position = run.epoch + 1, 0
            with self._gate.work("shuffle"):
                trial = run.trial
                run.rows = self._study.batch_indices(trial.params, trial.seed, run.epoch)
        return ended

    def _end_culprits(self) -> list[Ended]:
        """After an exception in the bundle's step: ends the trials that raise it on their own."""
        ended = []
        self._batches.note_positions()
        with self._gate.doing(RecordKind.OTHER):
            for slot in self._slots_in_work():
                with self._gate.work("alone"):
                    problem = self._try_alone(slot)
                if problem is not None:
                    failed = self._failed(self._run(slot).trial.number, problem)
                    ended.append(self._end(slot, failed))
        self._optimizer.zero_grad()
        if not ended:
            raise  # nobody is to blame: the bundle itself is broken
        self._place_batches()
        return ended

    def _try_alone(self, slot: int) -> Exception | None:
        """Returns what the step of one trial raises when it runs by itself."""
        run = self._run(slot)
        rows = run.rows[run.position]
        try:
            inputs = self._study.inputs(self._data.train_x[rows], run.trial.seed, run.step)
            with trial_stream(run.trial.seed, run.step):
                outputs = self._bundle.unbind(slot)(inputs)
            targets, seed = self._data.train_y[rows], run.trial.seed
            loss_in_stream(self._study.loss, outputs, targets, seed=seed, step=run.step).backward()
        except Exception as error:
            return error
        return None

    def _end(self, slot: int, ended: Ended) -> Ended:
        self._slots[slot] = None
        self._bundle.idle(slot)
        return ended

    def _run(self, slot: int) -> SlotRun:
        run = self._slots[slot]
        assert run is not None
        return run

    def _failed(self, number: int, error: Exception) -> Ended:
        """Keeps the traceback in the trial's own log."""
        text = "".join(traceback.format_exception(error))
        log = self._folder.write_log(number, text)
        reason = f"{type(error).__name__}: {error} (see {log})"
        return Ended(number=number, state="failed", reason=reason)


def as_trial(body: dict[str, Any]) -> Trial:
    """Returns the trial that a message brought."""
    return Trial(number=body["number"], seed=body["seed"], params=body["params"])
