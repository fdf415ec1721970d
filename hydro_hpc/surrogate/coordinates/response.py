"""How far one optimizer step of a layer's own parameters moves its outputs, on the same inputs.

What counts is the part of the movement that goes against the gradient G of the loss by these
outputs: the rest, which the averaging over a batch brings, shrinks with the width by itself. The
movement is taken relative to what this optimizer makes of a gradient, so that a gradient that is
wrong because of another layer does not count: a step of the Adam family has the size of its
learning rate, and one of SGD is in proportion to G, which falls as 1 / width at each output of a
layer inside the width. Under the rules the response is the same at every width, from the first step
on, and at any learning rate.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from hydro_hpc.surrogate.coordinates.records import BIAS
from hydro_hpc.surrogate.coordinates.watching import Call, first_tensor
from hydro_hpc.surrogate.table import Family

LEAST_COSINE: Final = 1e-4  # of a movement with -G: below, the gradient is 0 but for rounding

Parameters = dict[str, Tensor]  # of one layer itself, by name


def own_parameters(layer: nn.Module) -> Parameters:
    """Copies."""
    named = layer.named_parameters(recurse=False)
    return {name: parameter.detach().clone() for name, parameter in named}


def response(change: Tensor, gradient: Tensor, family: Family) -> float:
    """0 where there is no movement that the gradient could have made."""
    x, g = change.double().flatten(), gradient.double().flatten()
    size, length = float(x.norm()), float(g.norm())
    along = -float(x @ g)
    if not along > LEAST_COSINE * size * length:
        return 0.0 if math.isfinite(size * length) else math.nan
    num_outputs = g.numel()
    if family is Family.ADAM:
        return along / (length * math.sqrt(num_outputs))
    return along / (length * length * num_outputs)


def parts_of(layer: str, parameters: Parameters) -> dict[str, frozenset[str]]:
    """The parameters that are looked at together: weights, and biases beside them."""
    weights = frozenset(name for name, value in parameters.items() if value.ndim > 1)
    others = frozenset(parameters) - weights
    if not weights or not others:
        return {layer: frozenset(parameters)} if parameters else {}
    return {layer: weights, f"{layer} {BIAS}": others}


@torch.no_grad()
def own_change(
    layer: nn.Module, before: Parameters, moved: frozenset[str], call: Call, seed: int
) -> Tensor | None:
    """What the layer would give to an earlier call with these of its parameters as they are now,
    and the others as before, less what it gave.
    """
    now = own_parameters(layer)
    mixed = {name: now[name] if name in moved else value for name, value in before.items()}
    old, new = (_given(layer, parameters, call, seed) for parameters in (before, mixed))
    return None if old is None or new is None else new - old


def _given(layer: nn.Module, parameters: Parameters, call: Call, seed: int) -> Tensor | None:
    """Leaves buffers, such as running means, as they are."""
    args, kwargs = call
    buffers = {name: value.clone() for name, value in layer.named_buffers()}
    torch.default_generator.manual_seed(seed)
    found = torch.func.functional_call(
        layer, {**parameters, **buffers}, args, kwargs, tie_weights=False
    )
    return first_tensor(found)
