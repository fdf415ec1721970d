"""From the calls of one model's forward to those of a bundle's, for tensors [slots, ...]."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from hydro_hpc.fusion.parts import Parts
from hydro_hpc.fusion.rules import slot_safe
from hydro_hpc.fusion.trace import Trace
from hydro_hpc.fusion.tracer import runs_without_gradients
from hydro_hpc.fusion.without_gradients import switch_gradients_off
from hydro_hpc.fusion.writes import refuse_writes_to_inputs
from hydro_hpc.nn.activation import Elementwise
from hydro_hpc.nn.conv import Conv, ConvTranspose
from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.norm import Norm


def rewrite(
    trace: Trace, parts: Parts, constants: Sequence[Mapping[str, Tensor]]
) -> fx.GraphModule:
    """The graph for all slots; `constants` has those of each slot's own trace. `Refused` where a
    call can be made neither for all slots at once nor once per slot.
    """
    refuse_writes_to_inputs(trace.graph, parts.state.slot_models[0])
    return _Rewriting(trace, parts, constants).result()


def name_of_part(op: str, target: str) -> str:
    """The attribute of a rewritten graph that stands for a module or a tensor of the model."""
    return f"{op}_{target}".replace(".", "_dot_")


class _Rewriting:
    """One graph in the making."""

    def __init__(
        self, trace: Trace, parts: Parts, constants: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self._trace, self._parts, self._constants = trace, parts, constants
        self._graph = fx.Graph()
        self._called: dict[str, Any] = {}
        self._made: dict[fx.Node, fx.Node] = {}

    def result(self) -> fx.GraphModule:
        for node in self._trace.graph.nodes:
            self._made[node] = self._rewritten(node)
            if node.op.startswith("call_") and runs_without_gradients(node):
                switch_gradients_off(self._made[node], self._called)
        return fx.GraphModule(self._called, self._graph)

    def _rewritten(self, node: fx.Node) -> fx.Node:
        if node.op in ("call_function", "call_method"):
            return self._call(node)
        copied = self._graph.node_copy(node, lambda old: self._made[old])
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            is_module = node.op == "call_module"
            opaque = self._trace.opaque
            part = (
                self._parts.module(target, opaque)
                if is_module
                else self._parts.tensor(target, self._constants)
            )
            copied.target = name_of_part(node.op, target)
            self._called[copied.target] = part
            if isinstance(part, Elementwise) and self._is_last_reader(node):
                copied.kwargs = {"is_last_reader": True}
        return copied

    def _is_last_reader(self, node: fx.Node) -> bool:
        """Says whether a call has its input, the new result of another, for itself."""
        given = node.args[0] if node.args else None
        return (
            isinstance(given, fx.Node)
            and given.op == "call_module"
            and set(given.users) == {node}
            and isinstance(self._parts.fused.get(str(given.target)), Conv | ConvTranspose | Norm)
        )

    def _call(self, node: fx.Node) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda old: self._made[old])
        if node.target is F.dropout:
            return self._dropout(node, args, kwargs)
        try:
            target = slot_safe(node)
        except Refused as reason:
            part = self._parts.function(node, str(reason))
            return self._call_part(f"separate_{node.name}", part, args, kwargs)
        if isinstance(target, str):
            return self._graph.call_method(target, args, kwargs)
        return self._graph.call_function(target, args, kwargs)

    def _dropout(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        """A functional dropout call as a module that draws from the slots' streams."""
        settings = inspect.signature(F.dropout).bind(*args, **kwargs)
        settings.apply_defaults()
        x, p, training, inplace = settings.args
        if inplace or not isinstance(p, float | int) or not isinstance(training, bool):
            raise Refused("'dropout' with inplace=True or computed settings has no fused rule")
        part = self._parts.dropout(float(p), training=training)
        return self._call_part(f"functional_{node.name}", part, (x,), {})

    def _call_part(self, name: str, part: Any, args: Any, kwargs: Any) -> fx.Node:
        self._called[name] = part
        return self._graph.create_node("call_module", name, args, kwargs)
