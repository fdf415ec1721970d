"""Settings given as a surrogate's target has them, and used times a factor of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.optim.groups import ParameterGroup
from hydro_hpc.surrogate.rules import Rules, Scale, by_scale, scales_of

GIVEN: Final = "given"  # in a torch optimizer's group: the same before they were multiplied


def split_by_scale(
    groups: Sequence[ParameterGroup], rules: Rules, optimizer: str
) -> tuple[list[ParameterGroup], list[Scale]]:
    """Each group as those of its parameters that have one scale, in order; and these scales. Of one
    group of all parameters they are the groups of `Surrogate.param_groups`.

    ShrinkError if the rules are of another model, or there are none for torch's optimizer of this
    name.
    """
    every = scales_of([name for group in groups for name in group.names], rules, optimizer)
    split: list[ParameterGroup] = []
    scales: list[Scale] = []
    for group in groups:
        for scale, names in by_scale({name: every[name] for name in group.names}).items():
            split.append(ParameterGroup(names=names, **group.settings))
            scales.append(scale)
    return split, scales


def scaled(given: Mapping[str, Tensor], scales: Sequence[Scale]) -> dict[str, Tensor]:
    """Hyperparameters [slots, G] as a step uses them."""
    return {
        name: values * torch.tensor([scale.of(name) for scale in scales], dtype=values.dtype)
        for name, values in given.items()
    }


def to_torch(group: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """A torch optimizer's group with settings as a step uses them; what they are made of stays
    beside them, since a product does not tell its factors to the last bit.
    """
    if scale == Scale():
        return dict(group)
    used = {name: _times(value, scale.of(name)) for name, value in group.items()}
    return {**used, GIVEN: {name: x for name, x in group.items() if scale.of(name) != 1.0}}


def from_torch(group: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """The reverse, also of a group that torch's own optimizer had: then by division."""
    noted = group.get(GIVEN, {})
    found = {}
    for name, value in group.items():
        factor = scale.of(name)
        is_as_noted = name in noted and bool(_times(noted[name], factor) == value)
        if name != GIVEN:
            divided = value if factor == 1.0 else value / factor
            found[name] = noted[name] if is_as_noted else divided
    return found


def _times(value: Any, factor: float) -> Any:
    return value if factor == 1.0 else value * factor
