"""Narrow models from a model itself: its widths are followed through one forward call."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import sympy
from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.nn.multiplier import multiply_input
from hydro_hpc.surrogate.axes import Axes, Axis
from hydro_hpc.surrogate.initial import FixedWeight, cut_factors, rescale
from hydro_hpc.surrogate.kinds import input_multipliers, scalings_of
from hydro_hpc.surrogate.layouts import Uses
from hydro_hpc.surrogate.report import Report
from hydro_hpc.surrogate.rules import Rules
from hydro_hpc.surrogate.shown import Shown
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.tracing.fixed import fixed_weights, said_of_fixed
from hydro_hpc.surrogate.tracing.looking import look_at
from hydro_hpc.surrogate.tracing.narrowing import narrowed
from hydro_hpc.surrogate.tracing.raw_uses import raw_uses
from hydro_hpc.surrogate.tracing.reporting import report_of
from hydro_hpc.surrogate.tracing.sizes import Sizes, narrow_sizes, value
from hydro_hpc.surrogate.tracing.symbols import Attribute, attributes_of
from hydro_hpc.surrogate.tracing.trace import Trace, trace
from hydro_hpc.surrogate.tracing.unfollowed import refuse_unfollowed
from hydro_hpc.surrogate.trained import refuse_trained
from hydro_hpc.surrogate.width import LEAST


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How any model of one architecture is narrowed: found once, and cheap to follow."""

    trace: Trace
    sizes: Sizes
    axes: Mapping[str, Axes]
    rules: Rules
    fixed: Mapping[str, FixedWeight]
    report: Report

    def follow(self, model: nn.Module) -> Surrogate:
        """A surrogate of this model, its draws and torch's random state; it is not changed, and
        nothing of it is kept. ShrinkError if it is not of the architecture that was followed.
        """
        _refuse_other(model, self.trace, self.sizes)
        refuse_trained(model, self.axes)
        module = narrowed(model, self.trace, self.sizes)
        initial = cut_factors(model, module, self.rules, self.fixed)
        rescale(module, initial)
        for path, factor in input_multipliers(module, self.rules).items():
            multiply_input(module.get_submodule(path), factor)
        return Surrogate(module=module, rules=self.rules, initial=initial, report=self.report)


def plan_of(
    model: nn.Module,
    by: float,
    example: Any,
    *,
    keep: Collection[str] = (),
    uses: Uses | None = None,
) -> Plan:
    """ShrinkError if the model cannot be followed, or nothing of it can shrink."""
    if not by >= 1:
        raise ShrinkError(f"by={by!r} makes no narrower model: it must be 1 or more")
    plan = plan_from(trace_of(model, example), model, by, example, keep=keep, uses=uses)
    _refuse_too_narrow(plan.report, by)
    return plan


def trace_of(model: nn.Module, example: Any) -> Trace:
    """What plans of all ratios are made from. ShrinkError if the model cannot be followed."""
    if example is None:
        raise ShrinkError(
            "the widths of a model are followed through a forward call: give what it takes as "
            "example=, such as one batch"
        )
    refuse_unfollowed(model)
    return trace(model, example)


def plan_from(
    seen: Trace,
    model: nn.Module,
    by: float,
    example: Any,
    *,
    keep: Collection[str] = (),
    uses: Uses | None = None,
) -> Plan:
    """The same of a model that was followed before."""
    fixed = _kept_symbols(model, seen, keep)
    sizes = narrow_sizes(seen, by, fixed)
    report = report_of(seen, sizes, by, fixed)
    if not report.widths:
        why = "; ".join(str(kept) for kept in report.kept) or "no layer takes what another gives"
        raise ShrinkError(f"no width of the model can shrink: {why}")
    raw = raw_uses(model, seen, said=uses)
    narrow = narrowed(model, seen, sizes)
    axes = _axes(seen, sizes)
    rules = scalings_of(narrow, axes, target=model, uses=raw, shown=seen.uses)
    weights = fixed_weights(seen.fixed, axes)
    if by != 1:
        said = (*said_of_fixed(weights), *look_at(model, narrow, rules, example))
        report = replace(report, warnings=(*report.warnings, *said))
    return Plan(trace=seen, sizes=sizes, axes=axes, rules=rules, fixed=weights, report=report)


def shown_by_trace(
    seen: Trace, model: nn.Module, axes: Mapping[str, Axes], *, said: Uses | None = None
) -> Shown:
    """By the call of the target that was followed, beside what is `said` of raw parameters."""
    fixed = fixed_weights(seen.fixed, axes)
    return Shown(
        uses=raw_uses(model, seen, said=said),
        fixed=fixed,
        names=frozenset(seen.uses),
        said=tuple(said_of_fixed(fixed)),
    )


def _refuse_too_narrow(report: Report, by: float) -> None:
    """ShrinkError if the ratio is none that even the largest width has."""
    largest = max(report.widths, key=lambda width: width.target)
    left = largest.target / by
    if round(left) < LEAST:
        raise ShrinkError(
            f"by={by:g} leaves {left:.3g} of the model's largest width, the {largest.target} of "
            f"'{largest.paths[0]}', and one unit learns nothing as its target does; divide by "
            f"{largest.target // LEAST} or less"
        )


def _refuse_other(model: nn.Module, seen: Trace, sizes: Sizes) -> None:
    named = [*model.named_parameters(), *model.named_buffers()]
    found = {name: tuple(tensor.shape) for name, tensor in named}
    expected = {n: tuple(value(s, seen.numbers) for s in own) for n, own in seen.sizes.items()}
    found |= {place: (number,) for place, number in _attributes(attributes_of(model))}
    followed = [attribute for attribute, _ in seen.attributes]
    shrinks = [bool(size.free_symbols & sizes.shrunk) for _, size in seen.attributes]
    for (place, number), is_size in zip(_attributes(followed), shrinks, strict=True):
        expected[place] = (number,) if is_size else found.get(place, ())
    wrong = next((n for n in [*found, *expected] if found.get(n) != expected.get(n)), None)
    if wrong is not None:
        raise ShrinkError(
            f"'{wrong}' is not of the size for which the surrogate's rules were made; let sizes "
            "depend on what is chosen with choice() or integer(), not on a real number"
        )


def _attributes(attributes: Iterable[Attribute]) -> Iterator[tuple[str, int]]:
    """By the place of each."""
    for one in attributes:
        index = "" if one.index is None else f"[{one.index}]"
        yield f"{one.path}.{one.key}{index}".lstrip("."), one.value


def _axes(seen: Trace, sizes: Sizes) -> dict[str, Axes]:
    return {
        name: tuple(
            Axis(
                target=value(size, seen.numbers),
                size=value(size, sizes.numbers),
                is_wide=bool(size.free_symbols & sizes.shrunk),
            )
            for size in own
        )
        for name, own in seen.sizes.items()
    }


def _kept_symbols(model: nn.Module, seen: Trace, keep: Collection[str]) -> frozenset[sympy.Symbol]:
    """Of what the named modules or parameters give. ShrinkError if one is not in the model."""
    kept: set[sympy.Symbol] = set()
    known = {name for name, _ in model.named_modules()}
    for path in keep:
        names = [n for n in seen.sizes if n == path or (path in known and n.startswith(f"{path}."))]
        if not names:
            near = get_close_matches(path, _nameable(known, seen.sizes), 1, 0.0)
            raise ShrinkError(
                f"keep= names '{path}', which is no module with parameters, and no parameter: give "
                f"names of the model's own, such as {near[0]!r}"
            )
        for name in names:
            for use in seen.uses.get(name, ()):
                if use.out is not None:
                    kept |= seen.sizes[name][use.out].free_symbols
    return frozenset(kept)


def _nameable(modules: Collection[str], tensors: Collection[str]) -> list[str]:
    """In order; of modules those with parameters or buffers."""
    own = (n for n in modules if n and any(each.startswith(f"{n}.") for each in tensors))
    return sorted({*own, *tensors})
