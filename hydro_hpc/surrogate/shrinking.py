"""`shrink`: a narrow model that agrees with its target about which hyperparameters are good."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import Axes, compare, shapes_of
from hydro_hpc.surrogate.initial import rescale, spread_factors
from hydro_hpc.surrogate.kinds import places_of, scalings_of
from hydro_hpc.surrogate.multiplier import multiply_input
from hydro_hpc.surrogate.rules import Rules
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.table import TABLE, Kind

Factory = Callable[..., nn.Module]  # called with nothing it gives the target, else width=


def shrink(
    model: nn.Module | Factory,
    *,
    by: float | None = None,
    width: int | None = None,
    example: Any = None,
    keep: Collection[str] = (),
) -> Surrogate:
    """A model narrower than its target, scaled to agree with it about hyperparameters.

    `model` is a function with an argument `width=` whose default is the target's, and `width` the
    surrogate's, or its target's over `by`. Or it is the target itself: then its widths are followed
    through one call on `example` (several arguments are a tuple), and all that can be divided `by`
    are; what the modules and parameters give that `keep` names stays. It is not changed.
    Initial values come of torch's random state. ShrinkError if the widths cannot be told, or a
    parameter has no rule.
    """
    if isinstance(model, nn.Module):
        return _from_model(model, by=by, width=width, example=example, keep=keep)
    if keep:
        raise ShrinkError("keep= is of a model whose widths are followed; a function has width=")
    return _from_factory(model, width if by is None else _divided(model, width, by), example)


def _from_model(
    model: nn.Module, *, by: float | None, width: int | None, example: Any, keep: Collection[str]
) -> Surrogate:
    if width is not None or by is None:
        raise ShrinkError(
            "a model is shrunk by a ratio, such as by=8; a width= is of a function that has it"
        )
    if example is None:
        raise ShrinkError(
            "the widths of a model are followed through a forward call: give what it takes as "
            "example=, such as one batch"
        )
    if not by >= 1:
        raise ShrinkError(f"by={by!r} makes no narrower model: it must be 1 or more")
    from hydro_hpc.surrogate.by_trace import plan_of  # sympy, which a function does not need

    return plan_of(model, by, example, keep=keep).follow(model)


def _divided(factory: Factory, width: int | None, by: float) -> int:
    if width is not None:
        raise ShrinkError("width= and by= both say how narrow the surrogate is; give one")
    target = _target_width(factory)
    if not by >= 1 or round(target / by) < 1:
        raise ShrinkError(f"by={by!r} leaves nothing of a width of {target}, or widens it")
    return round(target / by)


def _from_factory(factory: Factory, width: int | None, example: Any) -> Surrogate:
    """The model that `factory(width=width)` builds; `factory()` is the target."""
    if width is None:
        raise ShrinkError("how narrow is the surrogate? give width= or by=")
    other = _another_width(factory, width)
    with torch.random.fork_rng(devices=[]):  # the surrogate's own draws are the user's
        target, third = factory(), factory(width=other)
    module = factory(width=width)
    axes = compare(shapes_of(target), shapes_of(module), shapes_of(third))
    rules = scalings_of(module, axes) if example is None else _by_use(target, axes, example)
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


def _by_use(target: nn.Module, axes: Mapping[str, Axes], example: Any) -> Rules:
    """Rules that a forward call on the example says, rather than the classes of modules."""
    from hydro_hpc.surrogate.by_trace import rules_by_use

    return rules_by_use(target, axes, example)


def _another_width(factory: Factory, width: int) -> int:
    """A width beside the target's and this one, to tell by which sizes follow it."""
    return 2 * max(_target_width(factory), width)


def _target_width(factory: Factory) -> int:
    default = inspect.signature(factory).parameters.get("width")
    if default is None or not isinstance(default.default, int):
        raise ShrinkError(
            "the factory has no argument width= with the target's width as its default: write "
            "def model(width=512), so that model() is the target"
        )
    return default.default
