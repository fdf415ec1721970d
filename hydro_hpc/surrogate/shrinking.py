"""`shrink`: a narrow model that agrees with its target about which hyperparameters are good."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import compare, shapes_of
from hydro_hpc.surrogate.initial import rescale, spread_factors
from hydro_hpc.surrogate.kinds import places_of, scalings_of
from hydro_hpc.surrogate.multiplier import multiply_input
from hydro_hpc.surrogate.rules import Rules, param_groups
from hydro_hpc.surrogate.table import TABLE, Kind

Factory = Callable[..., nn.Module]  # called with nothing it gives the target, else width=


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """`module` is to be trained in place of the target; `rules` say how, by parameter name."""

    module: nn.Module
    rules: Rules

    def param_groups(
        self, optimizer: str, *, lr: float, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """For a torch optimizer of this name; `lr` and `weight_decay` are the target's."""
        return param_groups(self.module, self.rules, optimizer, lr=lr, weight_decay=weight_decay)


def shrink(factory: Factory, *, width: int) -> Surrogate:
    """The model that `factory(width=width)` builds, scaled to agree with `factory()`, the target.

    ShrinkError if the widths cannot be told, or a parameter has no rule.
    """
    other = _another_width(factory, width)
    with torch.random.fork_rng(devices=[]):  # the surrogate's own draws are the user's
        target, third = factory(), factory(width=other)
    module = factory(width=width)
    axes = compare(shapes_of(target), shapes_of(module), shapes_of(third))
    rules = scalings_of(module, axes)
    rescale(module, spread_factors(target, module, rules))
    for name, places in places_of(module).items():
        scaling = rules[name]
        factor = TABLE[scaling.kind].in_mult.of(scaling.m_in, scaling.m_out)
        for place in places:
            if scaling.kind is Kind.OUTPUT or (
                scaling.kind is Kind.TIED and not isinstance(place.module, nn.Embedding)
            ):
                multiply_input(place.module, factor)
    return Surrogate(module=module, rules=rules)


def _another_width(factory: Factory, width: int) -> int:
    """A width beside the target's and this one, to tell by which sizes follow it."""
    default = inspect.signature(factory).parameters.get("width")
    if default is None or not isinstance(default.default, int):
        raise ShrinkError(
            "the factory has no argument width= with the target's width as its default: write "
            "def model(width=512), so that model() is the target"
        )
    return 2 * max(default.default, width)
