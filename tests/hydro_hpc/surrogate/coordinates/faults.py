"""Surrogates with one fault each, as a ladder of widths."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import nn

from hydro_hpc.surrogate import Surrogate
from hydro_hpc.surrogate.coordinates.ladders import BuiltLadder
from hydro_hpc.surrogate.coordinates.recipe import Ladder
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.rules import factors_of
from hydro_hpc.surrogate.table import Family, Kind, family_of
from tests.hydro_hpc.surrogate.coordinates.architectures import Case

Rate = Callable[[Scaling, Family], float]  # the factor of a parameter's learning rate


@dataclass(frozen=True, slots=True, kw_only=True)
class WithRates(Surrogate):
    """A surrogate with other learning rates than the rules'."""

    rate: Rate

    def param_groups(
        self, optimizer: str, *, lr: float, weight_decay: float | None = None
    ) -> list[dict[str, Any]]:
        decay = weight_decay or 0.0
        groups = []
        for name, parameter in self.module.named_parameters():
            rate = self.rate(self.rules[name], family_of(optimizer))
            settings = {"lr": lr * rate, "weight_decay": decay / rate}
            groups.append({"params": [parameter], **settings})
        return groups


@functools.cache
def right(case: Case) -> Ladder:
    return BuiltLadder(case.factory, case.example if case.is_shown else None)


def standard_parametrization(case: Case) -> Ladder:
    def build(width: int) -> Surrogate:
        rules = right(case)(width).rules
        return WithRates(module=case.factory(width=width), rules=rules, rate=lambda *_: 1.0)

    return build


def no_rate_rule(case: Case) -> Ladder:
    return _with_rates(case, lambda _: lambda *_: 1.0)


def every_rate_divided(case: Case) -> Ladder:
    return _with_rates(case, lambda width: lambda *_: case.target / width)


def hidden_rate_divided_once_more(case: Case) -> Ladder:
    """The published fault: under SGD a hidden weight's rate is multiplied by the narrowing."""

    def rate(width: int) -> Rate:
        def factor(scaling: Scaling, family: Family) -> float:
            narrowing = case.target / width if scaling.kind is Kind.HIDDEN else 1.0
            return narrowing * factors_of(scaling, family).lr

        return factor

    return _with_rates(case, rate)


def no_readout_multiplier(case: Case) -> Ladder:
    def build(width: int) -> Surrogate:
        surrogate = right(case)(width)
        _drop_hooks(surrogate.module)
        return surrogate

    return build


def wrong_fan_axis(case: Case) -> Ladder:
    """The two ratios of hidden weights exchanged, in their initial values and their rates."""

    def build(width: int) -> Surrogate:
        surrogate = right(case)(width)
        rules = {name: _exchanged(scaling) for name, scaling in surrogate.rules.items()}
        for name, parameter in surrogate.module.named_parameters():
            own, other = surrogate.rules[name], rules[name]
            parameter.data *= (other.m_in / own.m_in) ** -0.5 if own.kind is Kind.HIDDEN else 1.0
        return Surrogate(module=surrogate.module, rules=rules)

    return build


FAULTS: Final[dict[str, Callable[[Case], Ladder]]] = {
    "standard parametrization": standard_parametrization,
    "no rate rule": no_rate_rule,
    "no readout multiplier": no_readout_multiplier,
    "every rate divided": every_rate_divided,
    "wrong fan axis": wrong_fan_axis,
    "hidden rate x S": hidden_rate_divided_once_more,
}


def _with_rates(case: Case, rate: Callable[[int], Rate]) -> Ladder:
    def build(width: int) -> Surrogate:
        surrogate = right(case)(width)
        return WithRates(module=surrogate.module, rules=surrogate.rules, rate=rate(width))

    return build


def _exchanged(scaling: Scaling) -> Scaling:
    if scaling.kind is not Kind.HIDDEN:
        return scaling
    return replace(scaling, m_in=scaling.m_out, m_out=scaling.m_in)


def _drop_hooks(module: nn.Module) -> None:
    for each in module.modules():
        each._forward_pre_hooks.clear()
        each._forward_pre_hooks_with_kwargs.clear()
