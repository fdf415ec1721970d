"""The loop: F real models, one after the other. Exact for anything; the floor for everything."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor, nn

from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.layout import within_slots
from hydro_hpc.fusion.separate import SlotCalls, leaf_modules
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.nn.randomness import SlotStreams


class LoopExecutor:
    """Calls each slot model with its own row of the inputs, within its own random stream. With the
    channels last no slot fails alone: what a model raises may be about the memory of its images.
    """

    def __init__(
        self, state: StackedState, streams: SlotStreams, *, channels_last: bool = False
    ) -> None:
        self.state, self._channels_last = state, channels_last
        self._calls = SlotCalls(state, streams, fail_alone=not channels_last)
        self._leaves: dict[str, list[Tensor]] = {}
        self._collect_leaves()

    @property
    def kind(self) -> ExecutorKind:
        return ExecutorKind.LOOP

    def accept(self, slot: int, between: Callable[[str], None]) -> None:
        """Whatever it does."""
        del slot, between
        self._collect_leaves()

    def _collect_leaves(self) -> None:
        self._leaves = self.state.slot_parameters(self.state.trainable)

    def run(self, form: InputForm) -> Any:
        if self._channels_last:
            form = within_slots(form)
        with self._calls.streams.owned():
            return self._calls.run(self.state.slot_models, form.args, form.kwargs)

    def case_of(self, form: InputForm) -> Hashable:
        """Python reads all else anew in each call."""
        return form.but_for_the_batch

    def modules_to_gate(self) -> list[nn.Module]:
        return [leaf for model in self.state.slot_models for leaf in leaf_modules(model)]

    def adopt_training_flags(self) -> None:
        """Nothing to do: the models have them."""

    def leaf(self, name: str) -> list[Tensor]:
        return self._leaves[name]
