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


@torch.no_grad()
def own_change(layer: nn.Module, before: Parameters, call: Call, seed: int) -> Tensor | None:
    """What the layer gives to an earlier call now, less what it gave with its parameters before."""
    args, kwargs = call
    given = []
    for parameters in (before, own_parameters(layer)):
        buffers = {name: value.clone() for name, value in layer.named_buffers()}
        torch.default_generator.manual_seed(seed)
        found = torch.func.functional_call(
            layer, {**parameters, **buffers}, args, kwargs, tie_weights=False
        )
        given.append(first_tensor(found))
    old, new = given
    return None if old is None or new is None else new - old
