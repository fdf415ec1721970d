"""Parameters that are not a layer's weight but what its weight is computed from.

Weight norm makes a weight of a gain per output and of a direction. The direction begins as the
weight was, its rows' norms the gains; so long as these norms are the same at all widths, as those
of input and hidden weights are under muP, the direction goes by its weight's rules and the gain is
a vector. Those of an output weight's rows are not, and there is no rule. Nor is there for spectral
norm, whose norm of an input weight grows with the width, nor for parametrizations that we do not
know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

PARAMETRIZED: Final = re.compile(r"parametrizations\.(?P<weight>\w+)\.original(?P<part>\d*)")
HOOKED: Final = re.compile(r"(?P<weight>\w+)_(?P<part>g|v|orig)")  # of the older functions
PER_OUTPUT: Final = 0  # the axis along which there is one gain each


class Part(Enum):
    """What a parameter is to the weight that is computed from it."""

    GAIN = "gain"
    DIRECTION = "direction"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`weight` is the name of what is computed from a parameter, `part` what the parameter is."""

    weight: str
    part: Part


def source_of(module: nn.Module, name: str) -> Source | None:
    """None if the module uses its parameter as it is."""
    if found := PARAMETRIZED.fullmatch(name):
        weight = found["weight"]
        return Source(weight=weight, part=_parametrized(module, weight, found["part"]))
    found = HOOKED.fullmatch(name)
    if found is None or found["weight"] not in vars(module):
        return None  # no tensor beside the parameters is kept under the weight's name
    weight = found["weight"]
    is_normed = any(
        isinstance(hook, WeightNorm) and hook.name == weight and hook.dim == PER_OUTPUT
        for hook in module._forward_pre_hooks.values()
    )
    parts = {"g": Part.GAIN, "v": Part.DIRECTION} if is_normed else {}
    return Source(weight=weight, part=parts.get(found["part"], Part.UNKNOWN))


def _parametrized(module: nn.Module, weight: str, part: str) -> Part:
    steps: Any = getattr(module, "parametrizations")[weight]  # noqa: B009
    if len(steps) != 1 or not isinstance(steps[0], _WeightNorm) or steps[0].dim != PER_OUTPUT:
        return Part.UNKNOWN
    return {"0": Part.GAIN, "1": Part.DIRECTION}[part]


def owner_of(model: nn.Module, path: str, module: nn.Module) -> tuple[str, nn.Module]:
    """The path and the module whose weight a module's parameters are for: mostly itself."""
    if isinstance(module, parametrize.ParametrizationList):
        path = path.rpartition("parametrizations.")[0].removesuffix(".")
        return path, model.get_submodule(path)
    return path, module
