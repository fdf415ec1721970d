"""The initial values of a surrogate: its own factory's draws, with the spread that the rules say.

How an initialisation depends on the width by itself (mostly as one over the root of a layer's
fan-in) is found by comparing the spread of a parameter at two widths. The nearest of the laws that
initialisations follow is taken, so that no noise of single draws comes into the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from hydro_hpc.surrogate.kinds import Fans, Scaling, fans_of
from hydro_hpc.surrogate.table import TABLE

SIGMAS: Final = 4.0  # of noise: a spread further than that from every law follows its owner's own


def spread_factors(
    target: nn.Module, narrow: nn.Module, scalings: Mapping[str, Scaling]
) -> dict[str, float]:
    """By what to multiply each parameter that the narrow factory draws, so that it spreads as the
    rules say against the target's; exactly 1 at the target's width, and for constants.
    """
    wide, wide_fans, fans = dict(target.named_parameters()), fans_of(target), fans_of(narrow)
    factors = {}
    for name, parameter in narrow.named_parameters():
        if fans[name] == wide_fans[name] or is_constant(parameter, wide[name]):
            factors[name] = 1.0
            continue
        scaling = scalings[name]
        wanted = TABLE[scaling.kind].init_std.of(scaling.m_in, scaling.m_out)
        drawn = spread_change(wide[name], parameter, laws(wide_fans[name], fans[name]))
        factors[name] = wanted / drawn
    return factors


def laws(target: Fans, narrow: Fans) -> list[float]:
    """How a spread may change from the target's width to a narrow one: not at all; with the root of
    the fan-in (He, LeCun, PyTorch's defaults), of the fan-out, of their sum (Glorot); with the
    fan-in itself.
    """
    into, out = target.into / narrow.into, target.out / narrow.out
    both = (target.into + target.out) / (narrow.into + narrow.out)
    return [1.0, math.sqrt(into), math.sqrt(out), math.sqrt(both), into]


def spread_change(target: Tensor, narrow: Tensor, laws: list[float]) -> float:
    """The standard deviation at the narrow width over that at the target's, by the nearest law."""
    measured = float(narrow.detach().std() / target.detach().std())
    nearest = min(laws, key=lambda law: abs(math.log(measured / law)))
    noise = math.sqrt(0.5 / target.numel() + 0.5 / narrow.numel())  # of the logarithm, about
    return nearest if abs(math.log(measured / nearest)) < SIGMAS * noise else measured


def is_constant(*tensors: Tensor) -> bool:
    """Says whether one of them was not drawn: all its values are one."""
    return any(bool((x == x.flatten()[0]).all()) for x in tensors)


@torch.no_grad()
def rescale(model: nn.Module, factors: Mapping[str, float]) -> None:
    """Multiplies each parameter, once however many names it has."""
    for name, parameter in model.named_parameters():
        if factors[name] != 1.0:
            parameter.mul_(factors[name])
