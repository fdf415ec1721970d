"""A bundle: F trials that train as one module, each exactly as it would alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.fusion import choice, gradients, parking, resizing, signature
from hydro_hpc.fusion.choice import Wish, Workshop
from hydro_hpc.fusion.choices import ChoiceFolder, key_of
from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.executor import Executor
from hydro_hpc.fusion.gradients import BlockGradient
from hydro_hpc.fusion.grouped import GroupedExecutor
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.loop import LoopExecutor
from hydro_hpc.fusion.parking import ParkedTrial, SlotPart
from hydro_hpc.fusion.report import BundleReport
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.sampled_calls import SampledCalls
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.unsaved import UnsavedModule
from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.randomness import SlotStreams


def nothing(_next: str) -> None:
    """Nobody needs to know."""


class Bundle(UnsavedModule):
    """Made by `bind`. Inputs and outputs are trees of tensors [slots, ...].

    A slot is idle while no trial is in it (`active[slot]` is False): its loss reaches only itself,
    and optimizers leave its parameters and their state for it as they are. Where the loop runs, a
    model that raises makes its slot idle, its outputs NaN, and is found in `failures`.
    """

    def __init__(
        self,
        state: StackedState,
        seeds: Sequence[int],
        wish: Wish,
        *,
        choices: Sequence[ChoiceFolder] = (),
    ) -> None:
        super().__init__()
        self.state = state
        self.streams = SlotStreams(seeds)
        self.training = state.slot_models[0].training
        self.between: Callable[[str], None] = nothing  # called where `replace` may pause
        self.samples_calls = True  # verifies again in some calls, which takes as long as 20 calls
        self._sampled = SampledCalls()
        self._mode: bool | None = None  # of the last train() or eval(); None: flags as bound
        self._wish = wish
        self._choices = choices
        self._way = choice.LOOP
        self._workshop: Workshop
        self._seen: set[Any] = set()
        self._loop = LoopExecutor(state, self.streams)
        self._chosen: Executor = self._loop
        self._used: list[Executor] = []  # since gradients were last cleared
        self._without_gradient: set[int] = set()  # slots replaced since
        self.report = BundleReport(
            slots=state.slots,
            executor=None,
            reason="no example was given: chosen at the first call",
        )

    @property
    def slots(self) -> int:
        """F, the number of trials that fit."""
        return self.state.slots

    @property
    def active(self) -> list[bool]:
        """Which slots have a trial."""
        return list(self.state.active)

    @property
    def failures(self) -> dict[int, Exception]:
        """What models raised in `forward`, by slot, until the slot's trial is replaced."""
        return dict(self.state.failures)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Trees of tensors [slots, batch, ...] in and out."""
        form = self._form_of(args, kwargs)
        executor = self._executor_for(form)
        if executor not in self._used:
            self._used.append(executor)
        self._without_gradient.clear()
        self.streams.begin_call(training=self.training)
        before = [] if executor is self._loop else self.state.buffer_values()
        try:
            output = executor.run(form)
        except Exception as error:
            if executor is self._loop:
                raise  # of all slots
            raised = error
        else:
            if before and not all(self.state.active):
                idle = [slot for slot, on in enumerate(self.state.active) if not on]
                self.state.restore_buffers(before, idle)
            return output
        self.state.restore_buffers(before, range(self.slots if before else 0))
        self.streams.begin_call_again()
        if self._loop not in self._used:
            self._used.append(self._loop)
        output = self._loop.run(form)  # where each slot fails alone
        no_slot_is_to_blame = not self.state.spare_idle_slots()
        if no_slot_is_to_blame or isinstance(raised, Refused):
            self._fall_to_loop(reason_of(raised))
        return output

    def expect(self, *args: Any, **kwargs: Any) -> None:
        """Does now what the first call with such inputs [slots, batch, ...] would do first: looks
        whether the executor is exact for them, which may take seconds.
        """
        self._executor_for(self._form_of(args, kwargs))

    def shared(self, *args: Any, **kwargs: Any) -> Any:
        """The same, for inputs [batch, ...] that are the same for every slot."""
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda x: x.expand(self.slots, *x.shape), (args, kwargs)
        )
        return self(*args, **kwargs)

    def train(self, mode: bool = True) -> Bundle:
        """As `nn.Module.train`, by each model's own `train`, which may be the user's."""
        for model in self.state.slot_models:
            model.train(mode)
        self.training = self._mode = mode
        self._or_loop(lambda chosen: chosen.adopt_training_flags())
        return self

    def leaves(self) -> list[nn.Module]:
        """The modules whose forward is one unit that a gate may not interrupt, of the executor in
        use, in no order. After `replace`, or when `report.executor` has changed, there may be
        others.
        """
        return self._chosen.modules_to_gate()

    def unbind(self, slot: int) -> nn.Module:
        """The slot's model: the user's class, with storage of its own."""
        return self.state.extract(self._checked(slot))

    def idle(self, slot: int) -> None:
        """The slot has no trial until `replace`: its state stays as it is."""
        self.state.active[self._checked(slot)] = False

    def fail(self, slot: int, error: Exception) -> None:
        """The slot's trial raised outside its model, in its loss say: as if the model had."""
        self.state.fail(self._checked(slot), error)

    @contextmanager
    def only(self, slots: Collection[int]) -> Iterator[None]:
        """Inside, the other slots are idle: their outputs mean nothing, and they cannot fail."""
        state = self.state
        others = [slot for slot in range(self.slots) if state.active[slot] and slot not in slots]
        for slot in others:
            state.active[slot] = False
        try:
            yield
        finally:
            for slot in others:
                state.active[slot] = True

    def replace(self, slot: int, model: nn.Module, *, seed: int, step: int = 0) -> None:
        """Another trial takes the slot; the others go on undisturbed. The model is not changed.

        `step` is the number of optimizer steps that the trial has done: its random stream goes on
        from there. The optimizer's part is `reset_slot` or `load_slot_state`. FusionError if the
        model does not have the others' signature.
        """
        signature.check_like(self.state.slot_models[self._checked(slot)], model, self.state.owner)
        self.between("copy")
        newcomer = own_copy(model, "new trial")
        if self._mode is not None:
            newcomer.train(self._mode)
        self._forget_gradients(slot)
        self.state.write(slot, newcomer)
        self._loop.accept(slot, self.between)
        self.streams.restart(slot, seed, step)
        self._or_loop(lambda chosen: chosen.accept(slot, self.between))
        if self.state.own_buffers(newcomer):
            self._fall_to_loop(f"forward has made buffers of the trial in slot {slot}")

    def park(self, slot: int, *parts: SlotPart) -> ParkedTrial:
        """Takes the slot's trial into host memory, between two steps; the slot is idle then.

        `parts` are the optimizer, then the schedule, scaler and average whose state of the slot
        goes along. Gradients that backward has left do not.
        """
        return parking.park(self, self._checked(slot), parts)

    def unpark(self, slot: int, parked: ParkedTrial, *parts: SlotPart) -> None:
        """Brings a parked trial back into an idle slot, of whichever bundle of such models, on
        whichever device, to go on as if it had never left: to the last bit under the same executor
        and F in a slot of the same number, and in any slot of a loop. (In others rows lie otherwise
        in memory, and matrix products may round otherwise.) `parts` are of the same kinds.

        FusionError if the slot has a trial, or the model or the parts do not fit.
        """
        parking.unpark(self, self._checked(slot), parked, parts)

    def grow(self, slots: int, *parts: SlotPart) -> None:
        """Makes F larger, between two steps: all trials keep their slots and go on, equal to
        separate training; the new slots are idle until `replace` or `unpark`.

        `parts` are all that has slots, the optimizer before what goes with it; their settings of a
        new slot are those of the first slot with a trial. If F at least doubles, the executor is
        chosen anew, else only verified. If memory does not suffice, all stays as it was.
        """
        if slots <= self.slots:
            raise ValueError(f"grow to {slots} slots: the bundle has {self.slots}; name more")
        resizing.resize(self, slots, parts)

    def shrink(self, slots: int, *parts: SlotPart) -> dict[int, int]:
        """Makes F smaller, likewise. Returns old slot -> new slot of every trial: those whose slots
        go move to the first idle ones. FusionError if there are more trials than slots.
        """
        if not 0 < slots < self.slots:
            raise ValueError(f"shrink to {slots} slots: name 1 to {self.slots - 1} of {self.slots}")
        return resizing.resize(self, slots, parts)

    def take_slots(self, new: NewSlots) -> None:
        """Called by `grow` and `shrink`."""
        self._used = []
        old, self.state = self.slots, self.state.of_slots(new)
        self.streams = self.streams.of_slots(new.sources)
        self._loop = self._chosen = LoopExecutor(self.state, self.streams)
        self._without_gradient = set()
        self.report = replace(self.report, slots=self.slots)
        if self.report.executor is None:
            return
        sample = self._workshop.sample.of_slots(new.sources)
        if max(old, self.slots) < 2 * min(old, self.slots):
            self._workshop = Workshop(self.state.slot_models, self.streams.seeds, sample)
            self._choose(self.report)
        else:
            self.choose_executor(sample)

    def gradients(self, between: Callable[[], None] = lambda: None) -> list[BlockGradient]:
        """What backward has left since `zero_grad`, one per block of `state.blocks`, in memory that
        the next call, or optimizer step, overwrites. `between` is called where it may pause.
        """
        self.state.refuse_thawed()
        if self._runs_users_code:
            self.state.take_back()
        executors = self.executors_with_gradients()
        found = [gradients.gather(block, executors, between) for block in self.state.blocks]
        return [gradients.without(one, self._without_gradient) for one in found]

    def executors_with_gradients(self) -> Sequence[Executor]:
        """On whose leaves backward has left gradients since `zero_grad`: the sum of them counts."""
        return gradients.bearers(self._used, self.state.trainable) or [self._loop]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients; they are absent then, not zero, whatever `set_to_none` says."""
        del set_to_none
        for block in self.state.blocks:
            gradients.clear(block, self._used)  # which stay: backward may be still to come

    def stepped(self) -> None:
        """An optimizer has made a step: the active trials' random streams move on."""
        self.streams.advance(self.state.active)

    def choose_executor(self, sample: Sample) -> None:
        """Verifies and times the candidates on a sample and keeps the fastest that is exact, or
        takes what was chosen before, if it is exact.
        """
        self._workshop = Workshop(self.state.slot_models, self.streams.seeds, sample)
        key = key_of(self.state.slot_models, sample, compiles=self._wish.compiles)
        before = next(filter(None, (folder.get(key) for folder in self._choices)), None)
        is_verified = self._choose(before)
        self._workshop.tidy()
        if not is_verified:  # what went wrong here says nothing of the next time
            return
        for folder in self._choices:
            folder.put(key, self.report)
        first = self._choices[0].get(key) if self._choices else None
        if first is not None and choice.way_of(first) != self._way:  # somebody was faster
            self._choose(first)

    def _choose(self, before: BundleReport | None) -> bool:
        """Returns whether what is taken was found equal to separate models."""
        wish = self._wish if before is None else replace(self._wish, way=choice.way_of(before))
        self._way, self.report = choice.choose(self._workshop, wish)
        self.streams.uses_python = self._workshop.uses_python
        self._chosen = self._loop
        if self._way != choice.LOOP:
            self._chosen = self._workshop.maker(self._way)(self.state, self.streams)
        if isinstance(self._chosen, GroupedExecutor):
            parts = self._chosen.parts.closed
            calls = self._chosen.calls_per_slot(self._workshop.form)
            self.report = replace(self.report, per_slot={**parts, **calls})
        is_verified = self.report.has_verified(self._way.name)
        if before is not None and is_verified and self._way == wish.way:
            self.report = before
        form = self._workshop.form
        self._seen = {(self._chosen.case_of(form), form.precision)}
        return is_verified

    def _form_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> InputForm:
        form = InputForm.of(args, kwargs)
        form.require_slots(self.slots)
        return form.beside(self.state.active, self.state.spared) if self.state.spared else form

    def _executor_for(self, form: InputForm) -> Executor:
        if self.report.executor is None:
            self.choose_executor(Sample(args=form.args, kwargs=form.kwargs))
        if self._chosen is not self._loop:
            try:
                case = self._chosen.case_of(form), form.precision
                if case not in self._seen:
                    self._seen.add(case)
                    self._verify_again(form)
                elif self.samples_calls and self._sampled.is_next() and all(self.state.active):
                    self._verify_again(form, in_passing=True)
            except Refused as reason:
                self._fall_to_loop(str(reason))
        return self._chosen

    @property
    def _runs_users_code(self) -> bool:
        """Says whether forward ran the slot models themselves, which may do anything."""
        chosen = self._chosen
        return (
            chosen.parts.runs_users_code
            if isinstance(chosen, GroupedExecutor)
            else isinstance(chosen, LoopExecutor)
        )

    def _verify_again(self, form: InputForm, *, in_passing: bool = False) -> None:
        """Whether what was found exact at binding is exact for these inputs and weights too."""
        self._workshop.take(Sample(args=form.args, kwargs=form.kwargs))
        reason = self._workshop.refusal_again(self._way, in_passing=in_passing)
        self._workshop.tidy()
        if reason is not None:
            self._fall_to_loop(reason)

    def _or_loop(self, change: Callable[[Executor], None]) -> None:
        """Makes a change to the executor in use, or leaves it for the loop."""
        if self._chosen is not self._loop:
            try:
                change(self._chosen)
            except Refused as reason:
                self._fall_to_loop(str(reason))

    def _fall_to_loop(self, reason: str) -> None:
        self._chosen = self._loop
        self.report = self.report.fallen_to_loop(reason)

    def _forget_gradients(self, slot: int) -> None:
        """Gradients that the slot's last trial left must not reach the next."""
        self._without_gradient.add(slot)
        for executor in self._used:
            for name in self.state.trainable:
                leaf = executor.leaf(name)
                if not isinstance(leaf, Tensor):
                    leaf[slot].grad = None
                elif leaf.grad is not None:
                    leaf.grad[slot].zero_()

    def _checked(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot} of a bundle of {self.slots}")
        return slot

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The trainable parameters as autograd sees them: [slots, *shape], or one per slot."""
        del recurse, remove_duplicate
        for name in sorted(self.state.trainable):
            leaf = self._chosen.leaf(name)
            rows = [("", leaf)] if isinstance(leaf, Tensor) else _numbered(leaf)
            for slot, tensor in rows:
                assert isinstance(tensor, nn.Parameter)
                yield f"{prefix}{slot}{name}", tensor


def reason_of(raised: Exception) -> str:
    """Why the executor that raised is not used again."""
    if isinstance(raised, Refused):  # inputs of another kind than it was made for
        return str(raised)
    return f"it raised {type(raised).__name__} where separate models do not: {raised}"


def _numbered(rows: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    return [(f"{slot}.", row) for slot, row in enumerate(rows)]
