"""The grouped executor: the calls of one forward, each made once for all slots."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.rules import slot_safe
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.trace import trace_model
from hydro_hpc.fusion.writes import refuse_writes_to_inputs
from hydro_hpc.nn.dropout import Dropout
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.randomness import SlotStreams
from hydro_hpc.nn.registry import fuse

Flags = tuple[bool, ...]  # `training` of every module, in model order
Graphs = dict[Flags, fx.Graph]


class GroupedExecutor:
    """One graph per set of training flags, over fused modules that all graphs share.

    Construction raises `Refused` unless every call between modules is known to be slot-safe and
    the models of all slots make the same calls. `traced` remembers what such models were found to
    call: copies of the same models share it.
    """

    def __init__(
        self, state: StackedState, streams: SlotStreams, *, num_inputs: int, traced: Graphs
    ) -> None:
        self.state, self.streams, self.num_inputs = state, streams, num_inputs
        self._traced = traced
        parameters = {name for name, _ in state.slot_models[0].named_parameters()}
        self._tensors = {
            name: nn.Parameter(tensor, requires_grad=name in state.trainable)
            if name in parameters
            else tensor
            for name, tensor in state.stacked.items()
        }
        self._fused: dict[str, Fused] = {}
        self._functional: list[Fused] = []  # made for calls of functions, in no model
        self._runnable: dict[Flags, fx.GraphModule] = {}
        for flags in list(traced):  # now, not at the first switch to evaluation
            self._runnable[flags] = self._build(flags)
        self.adopt_training_flags()

    @property
    def kind(self) -> ExecutorKind:
        return ExecutorKind.GROUPED

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if kwargs or len(args) != self.num_inputs or not all(isinstance(x, Tensor) for x in args):
            raise Refused(f"the grouped executor takes {self.num_inputs} tensors by position")
        return self._graph.forward(*args)  # not called: fx would print what is raised

    def modules_to_gate(self) -> list[nn.Module]:
        return [*self._fused.values(), *self._functional]

    def leaf(self, name: str) -> Tensor:
        return self._tensors[name]

    def adopt_training_flags(self) -> None:
        models = self.state.slot_models
        flags = _flags(models[0])
        for slot, model in enumerate(models):
            if _flags(model) != flags:
                raise Refused(f"trials 0 and {slot} have modules in different training modes")
        if flags not in self._runnable:
            self._runnable[flags] = self._build(flags)
        self._graph = self._runnable[flags]
        for path, fused in self._fused.items():
            fused.training = models[0].get_submodule(path).training

    def accept(self, slot: int, between: Callable[[str], None]) -> None:
        """The slot has another model; `Refused` if it would not do the same as the rest."""
        model = self.state.slot_models[slot]
        present = _flags(model)
        try:
            for flags in self._runnable:
                between("trace")
                _set_flags(model, flags)
                graph = trace_model(model, self.num_inputs, between=between)
                between("compare")
                if _text(graph) != _text(self._traced[flags]):
                    raise Refused(f"slot {slot}'s new trial makes other calls than the rest")
        finally:
            _set_flags(model, present)
        between("adopt")
        for path, fused in self._fused.items():
            fused.adopt(fuse(self._members(path)))

    def _build(self, flags: Flags) -> fx.GraphModule:
        models = self.state.slot_models
        if flags not in self._traced:
            graphs = [trace_model(model, self.num_inputs) for model in models]
            for slot, graph in enumerate(graphs):
                if _text(graph) != _text(graphs[0]):
                    raise Refused(f"forward of trial {slot} makes other calls than that of trial 0")
            self._traced[flags] = graphs[0]
        try:
            return self._rewrite(self._traced[flags])
        except Refused:  # once more, for a reason with a source line
            self._rewrite(trace_model(models[0], self.num_inputs, with_lines=True))
            raise

    def _rewrite(self, traced: fx.Graph) -> fx.GraphModule:
        refuse_writes_to_inputs(traced, self.state.slot_models[0])
        graph, parts = fx.Graph(), dict[str, Any]()
        made: dict[fx.Node, Any] = {}
        for node in traced.nodes:
            if node.op in ("call_function", "call_method"):
                made[node] = self._rewrite_call(graph, parts, node, made)
                continue
            made[node] = graph.node_copy(node, lambda old: made[old])
            if node.op in ("call_module", "get_attr"):
                part = self._module(node.target) if node.op == "call_module" else self._tensor(node)
                made[node].target = name = f"{node.op}_{node.target}".replace(".", "_dot_")
                parts[name] = part
        return fx.GraphModule(parts, graph)

    def _rewrite_call(
        self, graph: fx.Graph, parts: dict[str, Any], node: fx.Node, made: dict[fx.Node, Any]
    ) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda old: made[old])
        if node.target is F.dropout:
            return self._dropout(graph, parts, node.name, args, kwargs)
        target = slot_safe(node)
        if isinstance(target, str):
            return graph.call_method(target, args, kwargs)
        return graph.call_function(target, args, kwargs)

    def _dropout(
        self, graph: fx.Graph, parts: dict[str, Any], name: str, args: Any, kwargs: Any
    ) -> Any:
        """A functional dropout call as a module that draws from the slots' streams."""
        settings = inspect.signature(F.dropout).bind(*args, **kwargs)
        settings.apply_defaults()
        x, p, training, inplace = settings.args
        if inplace or not isinstance(p, float | int) or not isinstance(training, bool):
            raise Refused("'dropout' with inplace=True or computed settings has no fused rule")
        module = Dropout([float(p)] * self.state.slots, self.streams)
        module.train(training)
        self._functional.append(module)
        parts[f"functional_{name}"] = module
        return graph.call_module(f"functional_{name}", (x,))

    def _module(self, path: Any) -> Fused:
        if path not in self._fused:
            self._fused[path] = fuse(self._members(path))
        return self._fused[path]

    def _members(self, path: str) -> Members:
        modules = [model.get_submodule(path) for model in self.state.slot_models]
        prefix = f"{path}." if path else ""
        own = [*modules[0]._parameters, *modules[0]._buffers]
        owner = self.state.owner
        tensors = {
            name: self._tensors[owner[prefix + name]] for name in own if prefix + name in owner
        }
        return Members(path=path, modules=modules, tensors=tensors, streams=self.streams)

    def _tensor(self, node: fx.Node) -> Tensor:
        name = str(node.target)
        if name not in self.state.owner:
            raise Refused(f"forward uses the tensor '{name}', which is no parameter and no buffer")
        return self._tensors[self.state.owner[name]]


def _flags(model: nn.Module) -> Flags:
    return tuple(module.training for module in model.modules())


def _set_flags(model: nn.Module, flags: Flags) -> None:
    for module, flag in zip(model.modules(), flags, strict=True):
        module.training = flag


def _text(graph: fx.Graph) -> str:
    """Equal for two models if they make the same calls with the same constants."""
    return "\n".join(f"{n.op} {n.target} {n.args} {n.kwargs}" for n in graph.nodes)
