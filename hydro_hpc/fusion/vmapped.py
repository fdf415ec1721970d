"""The vmap executor: the user's own forward, run once, with every parameter a batch over slots.

Python stays alive in each call (branches on shapes, loops over time), which a graph would freeze.
One skeleton, a copy of the first slot's model, stands for all: so models must agree in everything
but parameters and buffers, and forward may change nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.hidden import hidden_behaviour
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.outside import LEAVES_RESULTS, OutsideValues
from hydro_hpc.fusion.python_state import first_change, python_state
from hydro_hpc.fusion.resemblance import first_difference
from hydro_hpc.fusion.separate import SlotCalls, leaf_modules
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.vmap_rules import SlotRules
from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.randomness import SlotStreams, python_random_state

WATCHED_CALLS: Final = 6  # after construction: does forward write what only the skeleton has?


class VmapExecutor:
    """Runs the skeleton's forward under `torch.vmap`; gradients by ordinary autograd on the stack.

    `Refused` where the models differ in a Python attribute, have hooks, or write attributes.
    """

    def __init__(self, state: StackedState, streams: SlotStreams) -> None:
        for reason in hidden_behaviour(state.slot_models[0]).values():
            raise Refused(reason)
        self.state, self.streams = state, streams
        self._tensors = state.leaves()
        self._skeleton = own_copy(state.slot_models[0], "first trial")
        self._slots_F = torch.arange(state.slots)
        self._rules = SlotRules(SlotCalls(state, streams))
        self._num_calls = 0
        self._outside: OutsideValues | None = None
        with suppress(Refused):  # what cannot be watched is read anew in each call
            self._outside = OutsideValues(self._skeleton)
        for slot in range(state.slots):
            self.accept(slot)
        self.adopt_training_flags()

    @property
    def kind(self) -> ExecutorKind:
        return ExecutorKind.VMAP

    def run(self, form: InputForm) -> Any:
        self._num_calls += 1
        if self._num_calls > WATCHED_CALLS:
            return self._run(form.args, form.kwargs)
        before = python_state(self._skeleton)
        if self._leaves_results():  # of somebody else's calls
            self._outside = None
        output = self._run(form.args, form.kwargs)
        if self._leaves_results():
            raise Refused(LEAVES_RESULTS)
        changed = first_change(before, python_state(self._skeleton))
        if changed:
            raise Refused(f"forward writes to the attribute '{changed}'")
        return output

    def _leaves_results(self) -> bool:
        with suppress(Refused):
            return self._outside is not None and self._outside.take_back_traced()
        return False

    def _run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        inputs, spec = pytree.tree_flatten((args, dict(kwargs)))
        given = [x.contiguous() if isinstance(x, Tensor) else x for x in inputs]
        dims = [0 if isinstance(x, Tensor) else None for x in inputs]

        def call(slot: Tensor, tensors: dict[str, Tensor], *own: Any) -> Any:
            self._rules.anchor = slot
            own_args, own_kwargs = pytree.tree_unflatten(list(own), spec)
            with self._rules:
                return functional_call(self._skeleton, tensors, own_args, own_kwargs)

        with self.streams.owned():
            randomness = python_random_state()
            mapped = torch.vmap(call, in_dims=(0, 0, *dims), randomness="error")
            output = mapped(self._slots_F, self._tensors, *given)
            if self._rules.asked is not None:  # and went on when it got no answer
                raise Refused(f"forward {self._rules.asked}")
            if self._num_calls <= WATCHED_CALLS and python_random_state() != randomness:
                raise Refused("forward draws random numbers outside torch")
            return output

    def case_of(self, form: InputForm) -> Hashable:
        """Python reads all else anew in each call."""
        return form.but_for_the_batch

    def modules_to_gate(self) -> list[nn.Module]:
        return leaf_modules(self._skeleton)

    def leaf(self, name: str) -> Tensor:
        return self._tensors[name]

    def adopt_training_flags(self) -> None:
        flags = [module.training for module in self.state.slot_models[0].modules()]
        for slot, model in enumerate(self.state.slot_models):
            if [module.training for module in model.modules()] != flags:
                raise Refused(f"trials 0 and {slot} have modules in different training modes")
        for module, flag in zip(self._skeleton.modules(), flags, strict=True):
            module.training = flag

    def accept(self, slot: int, between: Callable[[str], None] = lambda _: None) -> None:
        """The slot has another model; `Refused` if it would not do the same as the rest."""
        between("compare")
        if different := first_difference(self._skeleton, self.state.slot_models[slot]):
            raise Refused(f"the attribute '{different}' differs between trials 0 and {slot}")
