"""The grouped executor: the calls of one forward, each made once for all slots where that is known
to be exact, and once per slot where it is not, or where that is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.layout import across_slots
from hydro_hpc.fusion.outside import LEAVES_RESULTS, OutsideValues
from hydro_hpc.fusion.parts import Parts
from hydro_hpc.fusion.resemblance import first_difference
from hydro_hpc.fusion.rewriting import name_of_part, rewrite
from hydro_hpc.fusion.rows import of_all
from hydro_hpc.fusion.rules import describe
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.trace import NOTHING, Trace, trace_model
from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.randomness import SlotStreams

Flags = tuple[bool, ...]  # `training` of every module, in model order
MOST_SHAPES: Final = 32  # of inputs, for each of which there is a graph of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """What a graph holds for; `types` are shapes and dtypes, None if it holds for all; `outside`
    is what was read from outside of the model.
    """

    flags: Flags
    outside: Hashable
    structure: Hashable
    types: Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What the models of all slots were found to call."""

    form: InputForm
    slots: list[Trace]


class GroupedExecutor:
    """One graph per occasion, over parts that all graphs share.

    Construction raises `Refused` unless the models of all slots make the same calls for inputs of
    this form. `closed` are modules to run once per slot, by path, with the reason. `traced`
    remembers what such models were found to call: copies of the same models share it, for the same
    `closed`.
    """

    def __init__(
        self,
        state: StackedState,
        streams: SlotStreams,
        *,
        form: InputForm,
        traced: dict[Occasion, Traced],
        closed: Mapping[str, str] = NOTHING,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        self.state, self.streams = state, streams
        self._channels_last, self._compiled = channels_last, compiled
        self._calls: dict[fx.GraphModule, Callable[..., Any]] = {}
        self._traced, self._closed = traced, closed
        self.parts = Parts(state, streams)
        self._outside = OutsideValues(state.slot_models[0])
        self._runnable: dict[Occasion, fx.GraphModule] = {}
        for occasion in list(traced):  # now, not at the first switch to evaluation
            self._add(occasion)
        self.adopt_training_flags()
        self._graph_for(form)

    @property
    def kind(self) -> ExecutorKind:
        return ExecutorKind.GROUPED

    def run(self, form: InputForm) -> Any:
        graph = self._graph_for(form)
        tensors = across_slots(form).tensors if self._channels_last else form.tensors
        if not self.parts.runs_users_code:
            output = self._call_of(graph)(*tensors)
        else:
            with self.streams.owned():
                output = self._call_of(graph)(*map(self._rows_of_their_own, tensors))
        if isinstance(output, Tensor):
            return of_all(output, self.state.slots)
        return pytree.tree_map_only(Tensor, lambda x: of_all(x, self.state.slots), output)

    def _call_of(self, graph: fx.GraphModule) -> Callable[..., Any]:
        """Not the graph's own call: fx would print what is raised."""
        if not self._compiled:
            return graph.forward
        if graph not in self._calls:
            self._calls[graph] = torch.compile(graph)
        return self._calls[graph]

    def _rows_of_their_own(self, x: Tensor) -> Tensor:
        return x if self._channels_last else x.contiguous()

    def calls_per_slot(self, form: InputForm) -> dict[str, str]:
        """The calls of functions that run once per slot, with their source line, and why."""
        if not self.parts.calls_per_slot:
            return {}
        model, closed = self.state.slot_models[0], self.parts.closed
        again = trace_model(model, form, closed=closed, with_lines=True).graph
        reasons = self.parts.calls_per_slot
        return {describe(node): reasons[node.name] for node in again.nodes if node.name in reasons}

    def case_of(self, form: InputForm) -> Hashable:
        """A graph for all shapes is one case, with what it read from outside of the model."""
        occasion = self._occasion_of(form)
        if occasion.types is None:
            return form.but_for_the_batch, occasion.outside
        return form.structure, form.shapes, occasion.outside

    def modules_to_gate(self) -> list[nn.Module]:
        return self.parts.modules_to_gate()

    def leaf(self, name: str) -> Tensor | list[Tensor]:
        return self.parts.leaf(name)

    def adopt_training_flags(self) -> None:
        models = self.state.slot_models
        self._flags = _flags(models[0])
        for slot, model in enumerate(models):
            if _flags(model) != self._flags:
                raise Refused(f"trials 0 and {slot} have modules in different training modes")
        self.parts.adopt_training_flags()

    def accept(self, slot: int, between: Callable[[str], None]) -> None:
        """The slot has another model; `Refused` if it would not do the same as the rest."""
        model = self.state.slot_models[slot]
        present = _flags(model)
        outside = self._outside.state()
        for occasion in [o for o in self._runnable if o.outside != outside]:
            del self._runnable[occasion], self._traced[occasion]
        try:
            for occasion, graph in self._runnable.items():
                _set_flags(model, occasion.flags)
                known = self._traced[occasion]
                trace = self._traced_like(model, known.slots[0], known.form, between)
                between("compare")
                if trace.text() != known.slots[slot].text():
                    raise Refused(f"slot {slot}'s new trial makes other calls than the rest")
                for name, value in trace.constants.items():
                    getattr(graph, name_of_part("get_attr", name)).data[slot] = value
        finally:
            _set_flags(model, present)
        between("adopt")
        self.parts.accept()

    def _graph_for(self, form: InputForm) -> fx.GraphModule:
        return self._runnable[self._occasion_of(form)]

    def _occasion_of(self, form: InputForm) -> Occasion:
        """That of the graph for such inputs under the present training flags, which is made if
        there is none yet.
        """
        for_all = Occasion(
            flags=self._flags,
            outside=self._outside.state(),
            structure=form.structure,
            types=None,
        )
        if for_all in self._runnable:
            return for_all
        types = (self.state.blocks[0].values_FP.dtype, form.shapes)
        occasion = replace(for_all, types=types)
        if occasion in self._runnable:
            return occasion
        if len(self._runnable) >= MOST_SHAPES:
            raise Refused(
                f"it would need more than {MOST_SHAPES} graphs, for other shapes of inputs"
            )
        form = form.without_values()
        first, *others = self.state.slot_models
        closed = {**self._closed, **self.parts.closed}
        traces = [trace_model(first, form, closed=closed)]
        if self._outside.take_back_traced():
            raise Refused(LEAVES_RESULTS)
        for slot, model in enumerate(others, start=1):
            traces.append(self._traced_like(model, traces[0], form))
            if traces[slot].text() != traces[0].text():
                raise Refused(f"forward of trial {slot} makes other calls than that of trial 0")
        if not traces[0].is_shaped and not traces[0].constants:
            occasion = for_all
        self._traced[occasion] = Traced(form=form, slots=traces)
        self._add(occasion)
        return occasion

    def _add(self, occasion: Occasion) -> None:
        traced = self._traced[occasion]
        first = traced.slots[0]
        constants = [trace.constants for trace in traced.slots]
        try:
            graph = rewrite(first, self.parts, constants)
        except Refused:  # once more, for a reason with a source line
            model = self.state.slot_models[0]
            again = trace_model(model, traced.form, closed=first.opaque, with_lines=True)
            rewrite(again, self.parts, constants)
            raise
        self.parts.refuse_shared_leaves([graph, *self._runnable.values()])
        self._runnable[occasion] = graph

    def _traced_like(
        self,
        model: nn.Module,
        first: Trace,
        form: InputForm,
        between: Callable[[str], None] = lambda _: None,
    ) -> Trace:
        """What another slot's model calls: the same as the first if nothing in Python differs."""
        if model is not self.state.slot_models[0]:
            between("compare attributes")
            if not first_difference(self.state.slot_models[0], model):
                return first
        return trace_model(model, form, closed=first.opaque, between=between)


def _flags(model: nn.Module) -> Flags:
    return tuple(module.training for module in model.modules())


def _set_flags(model: nn.Module, flags: Flags) -> None:
    for module, flag in zip(model.modules(), flags, strict=True):
        module.training = flag
