"""Narrow models from a model itself: its widths are followed through one forward call."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import sympy
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.nn.multiplier import multiply_input
from hydro_hpc.surrogate.axes import Axes, Axis
from hydro_hpc.surrogate.initial import rescale, sample_of, wanted_spread
from hydro_hpc.surrogate.kinds import input_multipliers, scalings_of
from hydro_hpc.surrogate.layouts import Uses, places_of
from hydro_hpc.surrogate.refusals import refuse_parametrized
from hydro_hpc.surrogate.report import Kept, Report, Width
from hydro_hpc.surrogate.rules import Rules
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.tracing.looking import look_at
from hydro_hpc.surrogate.tracing.narrowing import narrowed
from hydro_hpc.surrogate.tracing.raw_uses import raw_uses
from hydro_hpc.surrogate.tracing.sizes import Sizes, axes_symbols, narrow_sizes, value, widths
from hydro_hpc.surrogate.tracing.symbols import OF_TORCH, Attribute, attributes_of
from hydro_hpc.surrogate.tracing.trace import Trace, followed, trace
from hydro_hpc.surrogate.tracing.uses import How
from hydro_hpc.surrogate.trained import refuse_trained

BOTTLENECK: Final = (
    6  # times narrower than what is made of it, as the blocks of mobile networks are
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How any model of one architecture is narrowed: found once, and cheap to follow."""

    trace: Trace
    sizes: Sizes
    axes: Mapping[str, Axes]
    rules: Rules
    report: Report

    def follow(self, model: nn.Module) -> Surrogate:
        """A surrogate of this model, its draws and torch's random state; it is not changed, and
        nothing of it is kept. ShrinkError if it is not of the architecture that was followed.
        """
        _refuse_other(model, self.trace, self.sizes)
        refuse_trained(model, self.axes)
        module = narrowed(model, self.trace, self.sizes)
        initial = {
            name: 1.0 if sample_of(parameter).is_constant else wanted_spread(self.rules[name])
            for name, parameter in model.named_parameters()
        }
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
    return plan_from(trace_of(model, example), model, by, example, keep=keep, uses=uses)


def trace_of(model: nn.Module, example: Any) -> Trace:
    """What plans of all ratios are made from. ShrinkError if the model cannot be followed."""
    if example is None:
        raise ShrinkError(
            "the widths of a model are followed through a forward call: give what it takes as "
            "example=, such as one batch"
        )
    for places in places_of(model).values():
        for place in places:
            refuse_parametrized(place)
    _refuse_computed(model)
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
    report = _report(seen, sizes, by, fixed)
    if not sizes.shrunk:
        why = "; ".join(str(kept) for kept in report.kept) or "no layer takes what another gives"
        raise ShrinkError(f"no width of the model can shrink: {why}")
    raw = raw_uses(model, seen, said=uses)
    narrow = narrowed(model, seen, sizes)
    axes = _axes(seen, sizes)
    rules = scalings_of(narrow, axes, target=model, uses=raw)
    if by != 1:
        said = look_at(model, narrow, rules, example)
        report = replace(report, warnings=(*report.warnings, *said))
    return Plan(trace=seen, sizes=sizes, axes=axes, rules=rules, report=report)


def uses_by_trace(model: nn.Module, example: Any, *, said: Uses | None = None) -> Uses:
    """Of raw parameters, as one call on the example shows, and as is `said`. ShrinkError if it
    cannot be followed.
    """
    return raw_uses(model, followed(model, example), said=said)


def _refuse_computed(model: nn.Module) -> None:
    """ShrinkError if a module keeps what it computed, which cannot be copied."""
    for path, module in model.named_modules():
        for name, kept in vars(module).items():
            if isinstance(kept, Tensor) and kept.grad_fn is not None:
                raise ShrinkError(
                    f"'{path}' keeps '{name}', a tensor that it computed (as by the old "
                    "torch.nn.utils.weight_norm): use torch.nn.utils.parametrizations"
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
            raise ShrinkError(f"keep: '{path}' is no module with parameters, and no parameter")
        for name in names:
            for use in seen.uses.get(name, ()):
                if use.out is not None:
                    kept |= seen.sizes[name][use.out].free_symbols
    return frozenset(kept)


def _report(seen: Trace, sizes: Sizes, by: float, fixed: frozenset[sympy.Symbol]) -> Report:
    shrunk, kept = [], []
    multiplied = {size for size in seen.head_sizes if size.is_Symbol}
    for symbol in _in_order(seen, axes_symbols(seen) & (widths(seen) | multiplied)):
        paths = tuple(_paths(seen, symbol))
        target, size = seen.numbers[symbol], sizes.numbers[symbol]
        if symbol in sizes.shrunk:
            shrunk.append(Width(paths=paths, target=target, size=size, by=by))
        else:
            kept.append(Kept(paths=paths, size=target, why=_why(seen, symbol, fixed)))
    warnings = (*_unasked(seen, sizes), *_bottlenecks(seen, sizes))
    return Report(widths=tuple(shrunk), kept=(*kept, *_literal(seen)), warnings=warnings)


def _unasked(seen: Trace, sizes: Sizes) -> Iterator[str]:
    """Attributes that have a width's number, and that the call did not ask for."""
    asked = set[sympy.Symbol]().union(
        *(size.free_symbols for own in seen.sizes.values() for size in own),
        *(equation.free_symbols for equation in seen.equations),
    )
    numbers = {seen.numbers[symbol] for symbol in sizes.shrunk}
    for attribute, size in seen.attributes:
        is_open = attribute.key not in OF_TORCH and not size.is_number
        if is_open and attribute.value in numbers and not size.free_symbols & asked:
            name = f"{attribute.path}.{attribute.key}".lstrip(".")
            yield (
                f"'{name}' stays {attribute.value}, as the call asks for no size that it is; if "
                "other calls do, give a function with an argument width="
            )


def _bottlenecks(seen: Trace, sizes: Sizes) -> Iterator[str]:
    """Widths far narrower than what layers make of them, such as ranks and latent sizes: a line for
    all of one size.
    """
    givers: dict[tuple[int, int], list[str]] = {}
    for symbol in _in_order(seen, sizes.shrunk):
        around = [
            value(own[use.out], seen.numbers)
            for name, uses in seen.uses.items()
            for use in uses
            if use.how is How.PRODUCT and use.into is not None and use.out is not None
            if (own := seen.sizes[name])[use.into] == symbol
        ]
        target = seen.numbers[symbol]
        if around and min(around) > BOTTLENECK * target:
            givers.setdefault((target, sizes.numbers[symbol]), []).append(_giver(seen, symbol))
    for (target, size), names in givers.items():
        them = f"{len(names)} bottlenecks" if len(names) > 1 else "a bottleneck"
        yield (
            f"{target} -> {size} is the size of {them}: if it is to stay, as that of a latent "
            f"space or a rank, name what gives it, as keep={names}"
        )


def _giver(seen: Trace, symbol: sympy.Symbol) -> str:
    for name, uses in seen.uses.items():
        if any(use.out is not None and seen.sizes[name][use.out] == symbol for use in uses):
            return name
    return next(_paths(seen, symbol))


def _why(seen: Trace, symbol: sympy.Symbol, fixed: frozenset[sympy.Symbol]) -> str:
    if symbol in fixed:
        return "as asked"
    if symbol in seen.head_sizes:
        return "since activations are multiplied over it, as over the size of heads"
    return "no smaller size goes through the model"


def _literal(seen: Trace) -> Iterator[Kept]:
    """Sizes of what layers take that the code says as numbers."""
    by_line: dict[tuple[int, str], list[str]] = {}
    for name, uses in seen.uses.items():
        for use in uses:
            if use.how is How.PRODUCT and use.into is not None:
                given = seen.given[name][use.into]
                is_input = seen.sizes[name][use.into] in seen.inputs
                if not is_input and given in seen.lines and seen.sizes[name][use.into].is_number:
                    key = (int(seen.sizes[name][use.into]), seen.lines[given])
                    by_line.setdefault(key, []).append(name)
    for (size, line), paths in by_line.items():
        why = f"{line} says it as a number: let it be said by the shape of a tensor, and not int()"
        yield Kept(paths=tuple(paths), size=size, why=why)


def _in_order(seen: Trace, symbols: Collection[sympy.Symbol]) -> list[sympy.Symbol]:
    """As the model has their parameters."""
    found = dict.fromkeys(
        symbol
        for own in seen.sizes.values()
        for size in own
        for symbol in sorted(size.free_symbols, key=str)
    )
    return [symbol for symbol in found if symbol in symbols]


def _paths(seen: Trace, symbol: sympy.Symbol) -> Iterator[str]:
    """Those of which it is an axis, then those of which it is in one."""
    holders = [name for name, own in seen.sizes.items() if symbol in own]
    yield from holders
    for name, own in seen.sizes.items():
        if name not in holders and any(symbol in size.free_symbols for size in own):
            yield name
