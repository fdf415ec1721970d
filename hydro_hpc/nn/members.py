"""The F modules found at one path of F models, as a fused module's constructor gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hydro_hpc.nn.multiplier import input_multipliers
from hydro_hpc.nn.randomness import SlotStreams


class Refused(Exception):  # noqa: N818 - an answer, not an error: the loop takes over
    """Grouping is not known to be exact here; the argument is the reason, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """`modules` has one module per slot, all of one class; `tensors` their own parameters and
    buffers by local name, stacked [slots, *shape], without those that are None."""

    path: str
    modules: Sequence[nn.Module]
    tensors: Mapping[str, torch.Tensor]
    streams: SlotStreams

    @property
    def where(self) -> str:
        """How messages name the module."""
        return f"{type(self.modules[0]).__name__} '{self.path}'"

    def same(self, setting: str) -> Any:
        """The value of a setting that all slots share; `Refused` if two trials differ in it."""
        first = getattr(self.modules[0], setting)
        for slot, module in enumerate(self.modules):
            if getattr(module, setting) != first:
                raise Refused(f"{self.where}: '{setting}' differs between trials 0 and {slot}")
        return first

    def input_multipliers(self) -> tuple[float, ...]:
        """The factors on the modules' inputs; `Refused` if they differ, or inner ones have some."""
        first = input_multipliers(self.modules[0])
        for slot, module in enumerate(self.modules):
            if input_multipliers(module) != first:
                raise Refused(f"{self.where}: input multipliers of trials 0 and {slot} differ")
            for name, part in module.named_modules():
                if name and input_multipliers(part):
                    raise Refused(f"{self.where}: the input of its '{name}' is multiplied")
        return first

    def parameter(self, name: str) -> nn.Parameter:
        """A stacked parameter that the modules must have."""
        found = self.tensors[name]
        assert isinstance(found, nn.Parameter)
        return found

    def optional_parameter(self, name: str) -> nn.Parameter | None:
        """A stacked parameter, or None where the modules were made without it."""
        return self.parameter(name) if name in self.tensors else None

    def part(self, name: str, kind: type[nn.Module]) -> Members:
        """The modules at one name inside these; `Refused` unless all are exactly of this class."""
        modules = [module.get_submodule(name) for module in self.modules]
        path = f"{self.path}.{name}"
        for module in modules:
            if type(module) is not kind:
                raise Refused(f"{self.where}: {type(module).__name__} '{path}' has no fused rule")
        inside = f"{name}."
        tensors = {
            own.removeprefix(inside): tensor
            for own, tensor in self.tensors.items()
            if own.startswith(inside)
        }
        return Members(path=path, modules=modules, tensors=tensors, streams=self.streams)

    def require_tensors(self) -> None:
        """`Refused` if a parameter or buffer of the modules is not among the stacked ones."""
        module = self.modules[0]
        own = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
        for name, _ in own:
            if name not in self.tensors:
                raise Refused(f"{self.where}: its '{name}' is not stacked")

    def require(self, setting: str, value: Any) -> None:
        """`Refused` unless the setting has this one value in every slot."""
        if self.same(setting) != value:
            raise Refused(f"{self.where}: {setting}={self.same(setting)!r} has no fused rule")
