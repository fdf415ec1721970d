"""A model with narrower parameters: the user's own modules, of which only sizes differ.

A narrow parameter is made of the wide one's own rows and columns, so that it is drawn as its owner
draws, whatever law that is. Of stacked parts (gates; queries, keys, values) each gives its share.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import torch
from torch import Tensor, nn

from hydro_hpc.errors import FusionError, ShrinkError
from hydro_hpc.fusion.copying import deep_copy
from hydro_hpc.surrogate.tracing.sizes import Sizes, value
from hydro_hpc.surrogate.tracing.symbols import attributes_of, put
from hydro_hpc.surrogate.tracing.trace import Trace

Shapes = Mapping[str, Sequence[int]]

DESCRIBES: Final[Mapping[str, tuple[tuple[str, int], ...]]] = {
    "in_features": (("weight", 1),),
    "out_features": (("weight", 0),),
    "num_features": (("weight", 0), ("running_mean", 0)),
    "num_channels": (("weight", 0),),
    "embedding_dim": (("weight", 1),),
    "input_size": (("weight_ih_l0", 1), ("weight_ih", 1)),
    "hidden_size": (("weight_hr_l0", 1), ("weight_hh_l0", 1), ("weight_hh", 1)),
    "proj_size": (("weight_hr_l0", 0),),
    "kdim": (("k_proj_weight", 1), ("in_proj_weight", 1)),
    "vdim": (("v_proj_weight", 1), ("in_proj_weight", 1)),
    "num_parameters": (("weight", 0),),
    "in1_features": (("weight", 1),),
    "in2_features": (("weight", 2),),
}
"""Attributes of torch's modules that no forward call asks for, by the axis that they repeat."""


def shapes_at(trace: Trace, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Of each parameter and buffer of the narrow model."""
    return {
        name: tuple(value(size, sizes.numbers) for size in own) for name, own in trace.sizes.items()
    }


@torch.no_grad()
def narrowed(model: nn.Module, trace: Trace, sizes: Sizes) -> nn.Module:
    """A copy of the model at these sizes, in which nothing of it is left; which rows it takes comes
    of torch's random state. No second model of the target's size is made.
    """
    shapes = shapes_at(trace, sizes)
    made: dict[int, Any] = {
        id(tensor): _narrow_tensor(tensor, shapes[name])
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    try:
        narrow = deep_copy(model, made)
    except FusionError as error:
        raise ShrinkError(f"the model cannot be copied: {error}") from error
    _set_attributes(narrow, trace, sizes)
    return narrow


def _set_attributes(narrow: nn.Module, trace: Trace, sizes: Sizes) -> None:
    for own, (_, size) in zip(list(attributes_of(narrow)), trace.attributes, strict=True):
        if value(size, sizes.numbers) != value(size, trace.numbers):
            put(own, value(size, sizes.numbers))
    for module in narrow.modules():
        if not _is_torchs(module):
            continue
        for key, sources in DESCRIBES.items():
            if key in vars(module):
                _describe(module, key, sources)
        _describe_convolution(module)


def _is_torchs(module: nn.Module) -> bool:
    """Also what derives from torch's layers."""
    mro = (cls for cls in type(module).__mro__ if cls is not nn.Module)
    return any(cls.__module__.startswith("torch.nn.modules") for cls in mro)


def _describe(module: nn.Module, key: str, sources: tuple[tuple[str, int], ...]) -> None:
    for name, axis in sources:
        tensor = getattr(module, name, None)  # of weight norm, what it computes
        if isinstance(tensor, Tensor) and axis < tensor.ndim:
            module.__dict__[key] = tensor.shape[axis]
            return


def _describe_convolution(module: nn.Module) -> None:
    if not isinstance(module, nn.modules.conv._ConvNd):
        return
    first, second = module.weight.shape[0], module.weight.shape[1] * module.groups
    given, taken = (second, first) if module.transposed else (first, second)
    module.out_channels, module.in_channels = given, taken


def _narrow_tensor(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(tensor.shape) == tuple(shape):
        return copy.deepcopy(tensor)
    is_parameter = isinstance(tensor, nn.Parameter)
    is_drawn = is_parameter and tensor.requires_grad
    is_table = sum(size > 1 for size in tensor.shape) > 1
    in_pairs = Fraction(tensor.shape[-1], shape[-1]) if is_table else None
    values = tensor.detach()
    places: dict[Fraction, Tensor] = {}
    for axis, (size, narrow) in sorted(enumerate(zip(tensor.shape, shape, strict=True)), key=_last):
        if narrow != size:
            ratio = Fraction(size, narrow)
            fixed = _pairs(narrow, ratio) if ratio == in_pairs else torch.full((narrow,), 0.5)
            places.setdefault(ratio, torch.rand(narrow) if is_drawn else fixed)
            rows = _rows(size, narrow, places[ratio])
            values = values.index_select(axis, rows.to(values.device))
    if not is_parameter:
        return values.contiguous()
    return nn.Parameter(values.clone(), requires_grad=tensor.requires_grad)


def _last(axis: tuple[int, tuple[int, int]]) -> int:
    return axis[1][1]


def _pairs(narrow: int, ratio: Fraction) -> Tensor:
    """Neighbours stay together, if that goes up: tables of positions have sines and cosines in
    turn.
    """
    if ratio.denominator != 1 or narrow % 2:
        return torch.full((narrow,), 0.5)
    first = 2 * ((int(ratio) - 1) // 2)
    pair = torch.tensor([first, first + 1 - int(ratio)])
    return (pair + 0.5).repeat(narrow // 2) / int(ratio)


def _rows(size: int, narrow: int, places: Tensor) -> Tensor:
    """Which of `size` rows, by where they are taken in or beside each of `narrow` equal parts. Axes
    that shrink alike get the same places, stacked parts again, so that of an identity an identity
    is left.
    """
    again = places.repeat(-(-narrow // len(places)))[:narrow]
    return ((torch.arange(narrow) + again) * (size / narrow)).long().clamp_max(size - 1)
