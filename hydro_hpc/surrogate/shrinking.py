"""`shrink`: a narrow model that agrees with its target about which hyperparameters are good."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.nn.multiplier import multiply_input
from hydro_hpc.surrogate.arguments import check_keep, check_uses, refuse_keep
from hydro_hpc.surrogate.axes import Axes
from hydro_hpc.surrogate.building import Factory, axes_of, build, refuse_fixed_weights, target_width
from hydro_hpc.surrogate.initial import rescale, spread_factors
from hydro_hpc.surrogate.kinds import input_multipliers, scalings_of
from hydro_hpc.surrogate.layouts import Uses
from hydro_hpc.surrogate.report import NOT_CALLED, Report, widths_of
from hydro_hpc.surrogate.rules import Rules
from hydro_hpc.surrogate.shown import Shown
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.trained import refuse_trained
from hydro_hpc.surrogate.width import divided

if TYPE_CHECKING:  # sympy, which a function without an example does not need
    from hydro_hpc.surrogate.tracing.trace import Trace

    Follow = Callable[[nn.Module, Any], Trace]


def shrink(
    model: nn.Module | Factory,
    *,
    by: float | None = None,
    width: int | None = None,
    example: Any = None,
    keep: Collection[str] = (),
    uses: Uses | None = None,
) -> Surrogate:
    """A model narrower than its target, scaled to agree with it about hyperparameters.

    `model` is a function with an argument `width=` whose default is the target's, and `width` the
    surrogate's, or about its target's over `by`. Or it is the target itself, which is not changed:
    then its widths are followed through one call on `example` (several arguments are a tuple, or a
    dict by name), and all that can be divided `by` are; what the modules and parameters give that
    `keep` names stays.

    `uses` says of raw parameters, by name, how they are used, where neither code nor an example
    says it. Initial values come of torch's random state. ShrinkError if the widths cannot be told,
    or a parameter has no rule.
    """
    _check_arguments(model, by, keep, uses)
    if isinstance(model, nn.Module):
        if width is not None or by is None:
            raise ShrinkError(
                "a model is shrunk by a ratio, such as by=8; a width= is of a function that has it"
            )
        from hydro_hpc.surrogate.by_trace import plan_of  # sympy, which a function does not need

        return plan_of(model, by, example, keep=keep, uses=uses).follow(model)
    refuse_keep(keep)
    return from_factory(model, _width(model, width, by), by=by, example=example, uses=uses)


def _check_arguments(model: object, by: Any, keep: object, uses: object) -> None:
    if not callable(model):
        raise ShrinkError(
            f"what is shrunk is of type {type(model).__name__}: give a model, or a function with "
            "width="
        )
    is_number = isinstance(by, int | float) and not isinstance(by, bool)
    if by is not None and not (is_number and 1 <= by < math.inf):
        raise ShrinkError(f"by={by!r} makes no narrower model: it must be a number of 1 or more")
    check_keep(keep)
    check_uses(uses)


def _width(factory: Factory, width: int | None, by: float | None) -> int:
    if (width is None) == (by is None):
        raise ShrinkError("say how narrow the surrogate is by one of width= and by=")
    if by is None:
        assert width is not None
        return width
    return divided(target_width(factory), by)


def from_factory(
    factory: Factory,
    width: int,
    *,
    by: float | None = None,
    example: Any = None,
    uses: Uses | None = None,
    follow: Follow | None = None,
) -> Surrogate:
    """The model that `factory(width=width)` builds; `factory()` is the target. `follow` traces the
    target's call on the example, None: `tracing.trace.followed`.
    """
    builds = build(factory, width)
    axes = axes_of(builds)
    refuse_fixed_weights(builds, axes)
    if builds.again is None:  # one seed says nothing of how values are drawn
        refuse_trained(builds.target, axes)
    asked = target_width(factory) / width if by is None else by
    module, report = builds.narrow, Report(widths=widths_of(axes, asked))
    shown = _shown(builds.target, axes, example, uses, follow)
    rules = scalings_of(module, axes, target=builds.target, uses=shown.uses, shown=shown.names)
    if report.widths:
        said = _said(builds.target, module, rules, example)
        report = replace(report, warnings=(*shown.said, *said))
    initial = spread_factors(
        builds.target, module, rules, more=builds.more, uses=shown.uses, fixed=shown.fixed
    )
    rescale(module, initial)
    for path, factor in input_multipliers(module, rules).items():
        multiply_input(module.get_submodule(path), factor)
    return Surrogate(module=module, rules=rules, initial=initial, report=report)


def _shown(
    target: nn.Module,
    axes: Mapping[str, Axes],
    example: Any,
    uses: Uses | None,
    follow: Follow | None,
) -> Shown:
    if example is None:
        return Shown(uses=uses)
    from hydro_hpc.surrogate.by_trace import shown_by_trace
    from hydro_hpc.surrogate.tracing.calling import UnfollowedError
    from hydro_hpc.surrogate.tracing.fixed import said_of_unfollowed
    from hydro_hpc.surrogate.tracing.trace import followed

    try:
        seen = (follow or followed)(target, example)
        return shown_by_trace(seen, target, axes, said=uses)
    except UnfollowedError:  # code may say of all parameters how they are used
        return Shown(uses=uses, said=tuple(said_of_unfollowed(target, axes)))


def _said(target: nn.Module, narrow: nn.Module, rules: Rules, example: Any) -> tuple[str, ...]:
    if example is None:
        return (f"{NOT_CALLED}: give example=, such as one batch",)
    from hydro_hpc.surrogate.tracing.fixed import said_of_unregistered
    from hydro_hpc.surrogate.tracing.looking import look_at

    return (*look_at(target, narrow, rules, example), *said_of_unregistered(target, narrow))
