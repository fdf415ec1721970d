"""The F modules found at one path of F models, as a fused module's constructor gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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

    def parameter(self, name: str) -> nn.Parameter:
        """A stacked parameter that the modules must have."""
        found = self.tensors[name]
        assert isinstance(found, nn.Parameter)
        return found

    def optional_parameter(self, name: str) -> nn.Parameter | None:
        """A stacked parameter, or None where the modules were made without it."""
        return self.parameter(name) if name in self.tensors else None

    def require(self, setting: str, value: Any) -> None:
        """`Refused` unless the setting has this one value in every slot."""
        if self.same(setting) != value:
            raise Refused(f"{self.where}: {setting}={self.same(setting)!r} has no fused rule")
