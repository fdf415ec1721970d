"""The parts that the graphs of a grouped bundle call: each for all slots, or once per slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from hydro_hpc.fusion.separate import (
    SeparateFunction,
    SeparateModules,
    SlotCalls,
    leaf_modules,
    separate_function,
)
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.nn.dropout import Dropout
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.randomness import SlotStreams
from hydro_hpc.nn.registry import fuse


class Parts:
    """One part per path of a module, shared by all graphs, and one per call of a function."""

    def __init__(self, state: StackedState, streams: SlotStreams) -> None:
        self.state, self.streams = state, streams
        self.fused: dict[str, Fused] = {}
        self.separate: dict[str, SeparateModules] = {}
        self.functional: list[nn.Module] = []  # in no model
        self.calls_per_slot: dict[str, str] = {}  # the reason, by the call's name in its graph
        self._calls = SlotCalls(state, streams)
        self._tensors = state.leaves()
        self._slot_leaves: dict[str, list[Tensor]] = {}

    @property
    def closed(self) -> dict[str, str]:
        """The modules that run once per slot, by path, and why."""
        return {path: part.reason for path, part in self.separate.items()}

    @property
    def runs_users_code(self) -> bool:
        """Says whether a part may write into its inputs, and draws from the global generators."""
        return bool(self.separate or self.calls_per_slot)

    def leaf(self, name: str) -> Tensor | list[Tensor]:
        """The autograd leaf of a trainable parameter: one [slots, *shape], or one per slot."""
        return self._slot_leaves[name] if name in self._slot_leaves else self._tensors[name]

    def modules_to_gate(self) -> list[nn.Module]:
        separate = [m for part in self.separate.values() for m in part.modules_of_slots]
        inner = [leaf for module in separate for leaf in leaf_modules(module)]
        return [*self.fused.values(), *self.functional, *inner]

    def module(self, path: str, opaque: Mapping[str, str]) -> Fused | SeparateModules:
        """What stands for the modules at this path."""
        if path not in self.fused and path not in self.separate:
            if path in opaque:
                self._keep_separate(path, opaque[path])
            else:
                try:
                    self.fused[path] = fuse(self.members(path))
                except Refused as reason:
                    self._keep_separate(path, str(reason))
        return self.fused.get(path) or self.separate[path]

    def dropout(self, p: float, *, training: bool) -> Dropout:
        """What stands for a call of the function."""
        module = Dropout([p] * self.state.slots, self.streams)
        module.train(training)
        self.functional.append(module)
        return module

    def function(self, node: fx.Node, reason: str) -> SeparateFunction:
        """What stands for a call without a rule: the call itself, with each slot's own tensors."""
        part = SeparateFunction(separate_function(node), self._calls)
        self.calls_per_slot[node.name] = reason
        self.functional.append(part)
        return part

    def tensor(self, name: str, constants: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """[slots, ...] what forward reads by this name; `constants` are what each slot's own
        forward has beside parameters and buffers.
        """
        if name in self.state.owner:
            return self._tensors[self.state.owner[name]]
        values = [own[name] for own in constants]
        if any(value.requires_grad for value in values):
            raise Refused(f"forward uses the tensor '{name}', which wants a gradient of its own")
        return torch.stack([value.detach() for value in values])

    def per_slot(self, path: str) -> SeparateModules:
        """What would stand for the modules at this path if they ran once per slot."""
        return SeparateModules(path, self._calls, "")

    def adopt_training_flags(self) -> None:
        first = self.state.slot_models[0]
        for path, fused in self.fused.items():
            fused.follow(first.get_submodule(path))

    def accept(self) -> None:
        """A slot has another model."""
        for path, fused in self.fused.items():
            fused.adopt(fuse(self.members(path)))
        self._slot_leaves = self.state.slot_parameters(self._slot_leaves)

    def refuse_shared_leaves(self, graphs: Sequence[nn.Module]) -> None:
        """A parameter is one leaf of all slots or one leaf per slot; `Refused` if it is both."""
        taken = {id(parameter) for graph in graphs for parameter in graph.parameters()}
        for name in self._slot_leaves:
            if id(self._tensors[name]) in taken:
                raise Refused(f"'{name}' is shared by parts that run fused and parts that do not")

    def members(self, path: str) -> Members:
        modules = [model.get_submodule(path) for model in self.state.slot_models]
        prefix = f"{path}." if path else ""
        own = [
            *modules[0].named_parameters(remove_duplicate=False),
            *modules[0].named_buffers(remove_duplicate=False),
        ]
        owner = self.state.owner
        tensors = {
            name: self._tensors[owner[prefix + name]] for name, _ in own if prefix + name in owner
        }
        return Members(path=path, modules=modules, tensors=tensors, streams=self.streams)

    def _keep_separate(self, path: str, reason: str) -> None:
        self.separate[path] = part = SeparateModules(path, self._calls, reason)
        module = part.modules_of_slots[0]
        own = {self.state.owner[f"{path}.{name}"] for name, _ in module.named_parameters()}
        self._slot_leaves |= self.state.slot_parameters(own & self.state.trainable)
