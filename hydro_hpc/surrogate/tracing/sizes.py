"""The sizes of a narrow model: which symbols shrink, and to what, so that all equations hold.

Pure. Symbols that share an equation shrink together, by the ratio nearest to the one asked for that
their equations allow; the size of heads stays, their number shrinks. Of other sizes that are one
axis together the leading one alone shrinks, or the next if only that one has the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Final

import sympy
from torch.utils._sympy.functions import FloorDiv

from hydro_hpc.surrogate.tracing.symbols import Size
from hydro_hpc.surrogate.tracing.trace import Trace
from hydro_hpc.surrogate.tracing.uses import How

LEAST: Final = 2  # a width of 1 has no spread
MANY: Final = 4  # names of counts, of which not all combinations are tried
NEVER_FEWER: Final = frozenset({"groups", "num_groups"})
"""Attributes that widths round to, and that do not shrink with them."""

Numbers = Mapping[sympy.Symbol, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """`numbers`: of every symbol in the narrow model. `shrunk`: those that follow the width, also
    where the ratio asked for is 1.
    """

    numbers: Numbers
    shrunk: frozenset[sympy.Symbol]


@dataclass(frozen=True, slots=True)
class _Found:
    miss: float  # of the logarithm of the ratio
    num_attributes: int
    numbers: Numbers


def narrow_sizes(trace: Trace, by: float, fixed: Collection[sympy.Symbol] = frozenset()) -> Sizes:
    """All widths over `by`, as near as their equations allow, but for the `fixed` ones."""
    if by == 1:
        return Sizes(numbers=trace.numbers, shrunk=narrow_sizes(trace, 2, fixed).shrunk)
    same = [sympy.Eq(s, value(s, trace.numbers)) for s in (*trace.head_sizes, *_inferred(trace))]
    stays = {*fixed, *_pinned(trace)}
    known = {symbol: sympy.Integer(trace.numbers[symbol]) for symbol in stays}
    equations = [each.xreplace(known) for each in (*trace.equations, *same)]
    equations = [each for each in equations if each not in (sympy.true, sympy.false)]
    numbers = dict(trace.numbers)
    shrunk: set[sympy.Symbol] = set()
    products = {size for own in trace.sizes.values() for size in own if size.is_Mul}
    factors = [size.free_symbols - stays for size in products]
    for symbols in components(widths(trace) - stays, equations, factors):
        own = [e for e in equations if e.free_symbols & symbols]
        found = _nearest(trace, symbols - stays, own, by)
        if found is not None:
            numbers |= found.numbers
            shrunk |= found.numbers.keys()
    return Sizes(numbers=numbers, shrunk=frozenset(shrunk))


def _pinned(trace: Trace) -> set[sympy.Symbol]:
    """What can be no smaller while heads keep their size: it is that size, or it alone says it."""
    same = _same(trace)
    pinned = set().union(*(same.get(size, frozenset()) for size in trace.head_sizes))
    for size in trace.head_sizes:
        if len(size.free_symbols) == 1:
            symbol = next(iter(size.free_symbols))
            fewer = range(1, trace.numbers[symbol])
            if size == symbol or not any(_is_at(size, symbol, n, trace.numbers) for n in fewer):
                pinned.add(symbol)
    return pinned


def _is_at(size: Size, symbol: sympy.Symbol, number: int, numbers: Numbers) -> bool:
    """Says whether the size stays what it is when its symbol is this number."""
    return holds(sympy.Eq(size, value(size, numbers)), {symbol: number})


def widths(trace: Trace) -> set[sympy.Symbol]:
    """Symbols that some product takes, and that are not in what the model returns."""
    return _symbols(trace.taken) - _returned(trace)


def _returned(trace: Trace) -> set[sympy.Symbol]:
    """Symbols that are sizes of what the model returns."""
    return _symbols({*trace.outputs} - {*_inferred(trace)})


def _inferred(trace: Trace) -> list[Size]:
    """Of what the model returns those of views' -1: they stay, and the sizes that are divided for
    them may shrink alike.
    """
    return [size for size in trace.outputs if size.has(FloorDiv)]


def axes_symbols(trace: Trace) -> set[sympy.Symbol]:
    """Symbols that are an axis of what multiplies or is looked up in, and not in what the model
    returns. Of them shrink the widths, and what shares an equation with one: stacked gates, and
    channels that no product takes. Not so what only added parameters have, such as a count of
    positions or learned queries.
    """
    return _whole(trace) & _symbols(_layers_sizes(trace))


def _whole(trace: Trace) -> set[sympy.Symbol]:
    """Axes of any parameter or buffer, but for sizes of outputs."""
    axes = {size for size in chain.from_iterable(trace.sizes.values()) if size.is_Symbol}
    return axes - _returned(trace)


def _layers_sizes(trace: Trace) -> Iterator[sympy.Expr]:
    for name, uses in trace.uses.items():
        for use in uses:
            if use.how is How.PRODUCT:
                yield from trace.sizes[name]
            if use.how is How.TABLE:
                yield from (s for axis, s in enumerate(trace.sizes[name]) if axis != use.into)


def _symbols(sizes: Iterable[sympy.Expr]) -> set[sympy.Symbol]:
    return set(chain.from_iterable(size.free_symbols for size in sizes))


def components(
    wide: Iterable[sympy.Symbol],
    equations: Sequence[sympy.Expr],
    factors: Iterable[set[sympy.Symbol]] = (),
) -> Iterator[set[sympy.Symbol]]:
    """Symbols that equations or a common size, of which they are factors, join, those without a
    wide one left out.
    """
    left = sorted(wide, key=str)
    done: set[sympy.Symbol] = set()
    joined = [*(set(e.free_symbols) for e in equations), *factors]
    for start in left:
        if start in done:
            continue
        group, grew = {start}, True
        while grew:
            more = set().union(*(each for each in joined if each & group)) - group
            grew = bool(more)
            group |= more
        done |= group
        yield group


def _nearest(
    trace: Trace, symbols: set[sympy.Symbol], equations: Sequence[sympy.Expr], by: float
) -> _Found | None:
    """None if they can only stay."""
    stays = [*_alternatives(trace, symbols)]
    for only in (True, False):  # the ratio itself, which mostly fits, before all others
        for number, stay in enumerate(stays):
            found = _nearest_of(trace, symbols - stay, equations, by, only=only)
            if found and (not number or _are_enough(trace, found.numbers)):
                return found
    return None


def _are_enough(trace: Trace, numbers: Numbers) -> bool:
    """Says whether of each axis of layers is left what a width has at least, of counts too."""
    return all(numbers[each] >= LEAST for each in axes_symbols(trace) & numbers.keys())


def _nearest_of(
    trace: Trace,
    symbols: set[sympy.Symbol],
    equations: Sequence[sympy.Expr],
    by: float,
    *,
    only: bool,
) -> _Found | None:
    axes = symbols & (axes_symbols(trace) | _depthwise(trace))
    counts = {size for _, size in trace.attributes if size.is_Symbol} - widths(trace)
    for wide in (axes, axes - counts):
        found = [
            each
            for attributes in _choices(trace, symbols - wide)
            if (each := _with(trace.numbers, wide, attributes, equations, by, only=only))
        ]
        if found:
            layers = [size.free_symbols for size in _used(trace)]
            return min(
                found,
                key=lambda each: (
                    each.miss,
                    sum(own.isdisjoint(each.numbers) for own in layers),
                    each.num_attributes,
                ),
            )
    return None


def _alternatives(trace: Trace, symbols: set[sympy.Symbol]) -> Iterator[set[sympy.Symbol]]:
    """What stays of sizes that are one axis together, where but one of them may shrink."""
    products = [*_products(trace, symbols)]
    for number in range(max(map(len, products), default=1)):
        stay: set[sympy.Symbol] = set()
        for own in products:
            stay |= set().union(*own) - own[min(number, len(own) - 1)]
        yield stay


def _products(trace: Trace, symbols: set[sympy.Symbol]) -> Iterator[list[frozenset[sympy.Symbol]]]:
    """Of several sizes that are one axis together, the symbols of each, in the order in which
    activations have them; counts that no layer takes or gives come last.
    """
    symbols = symbols - counts_of_groups(trace)
    place = {size: number for number, size in enumerate(dict.fromkeys(chain(*trace.factors)))}
    counts = _whole(trace) - _used(trace)
    same = _same(trace)
    sizes = chain.from_iterable(trace.sizes.values())
    for product in dict.fromkeys([*trace.factors, *map(factors_of, sizes)]):
        ordered = sorted(product, key=lambda size: (place.get(size, len(place)), str(size)))
        found = [each for size in ordered if (each := same.get(size, frozenset({size})) & symbols)]
        if len(found) > 1:
            yield sorted(found, key=lambda each: bool(each & counts))


def _used(trace: Trace) -> set[Size]:
    """Sizes that some layer takes or gives."""
    return {
        trace.sizes[name][axis]
        for name, uses in trace.uses.items()
        for use in uses
        for axis in (use.into, use.out)
        if axis is not None
    }


def _same(trace: Trace) -> dict[Size, frozenset[sympy.Symbol]]:
    """Symbols by what else they are equal to, such as a width over a count of heads."""
    same: dict[Size, frozenset[sympy.Symbol]] = {}
    for equation in trace.equations:
        for one, other in (equation.args, equation.args[::-1]):
            if one.is_Symbol and not other.is_Symbol:
                same[other] = same.get(other, frozenset()) | {one}
    return same


def factors_of(size: Size) -> tuple[sympy.Symbol, ...]:
    """The symbols that it is a product of, if there are several."""
    found = tuple(each for each in size.args if each.is_Symbol) if size.is_Mul else ()
    return found if len(found) > 1 else ()


def counts_of_groups(trace: Trace) -> set[sympy.Symbol]:
    """Which stay as many."""
    return {
        size
        for attribute, size in trace.attributes
        if attribute.key in NEVER_FEWER and size.is_Symbol
    }


def _depthwise(trace: Trace) -> set[sympy.Symbol]:
    """Counts of groups that are the channels' own."""
    return {
        size
        for attribute, size in trace.attributes
        if attribute.key == "groups"
        and size.is_Symbol
        and (own := trace.sizes.get(f"{attribute.path}.weight"))
        and value(own[0], trace.numbers) == attribute.value
        and value(own[1], trace.numbers) == 1
    }


def _choices(trace: Trace, others: set[sympy.Symbol]) -> list[frozenset[sympy.Symbol]]:
    """Which counts that are no layer's axis may shrink too, such as of heads: those of attributes
    of some names, fewer before more; those that are an axis of other parameters and buffers.
    """
    by_name: dict[str, set[sympy.Symbol]] = {}
    for attribute, size in trace.attributes:
        if size in others and attribute.key not in NEVER_FEWER:
            by_name.setdefault(attribute.key, set()).add(size)
    named = [*by_name.values()]
    counts = range(len(named) + 1) if len(named) <= MANY else (0, 1, len(named) - 1, len(named))
    some = [
        frozenset[sympy.Symbol]().union(*chosen)
        for count in counts
        for chosen in combinations(named, count)
    ]
    rest = frozenset(_whole(trace) & others)
    return list(dict.fromkeys([*some, rest, some[-1] | rest]))


def _with(
    numbers: Numbers,
    wide: set[sympy.Symbol],
    attributes: frozenset[sympy.Symbol],
    equations: Sequence[sympy.Expr],
    by: float,
    *,
    only: bool,
) -> _Found | None:
    """The nearest ratio at which these shrink and the equations hold; `only` the one asked for."""
    if not (scaled := wide | attributes):
        return None
    smallest = min(numbers[symbol] for symbol in scaled)
    if only and not round(smallest / by):
        return None
    ratios = {1 / by, *(() if only else (j / smallest for j in range(1, smallest)))}
    for ratio in sorted(ratios, key=lambda r: (abs(math.log(r * by)), r)):
        proposed = {symbol: max(1, round(numbers[symbol] * ratio)) for symbol in scaled}
        if ratio < 1 and all(proposed[symbol] >= LEAST for symbol in wide):
            trial = {**numbers, **proposed}
            if all(holds(equation, trial) for equation in equations):
                miss = abs(math.log(ratio * by))
                return _Found(miss, len(attributes), proposed)
    return None


def holds(equation: sympy.Expr, numbers: Numbers) -> bool:
    substituted = {s: sympy.Integer(numbers[s]) for s in equation.free_symbols}
    try:
        return bool(equation.xreplace(substituted) == sympy.true)
    except ZeroDivisionError:  # a half of 1, as a number of heads
        return False


def value(size: sympy.Expr, numbers: Numbers) -> int:
    """Of an expression at these numbers."""
    return int(size.xreplace({s: sympy.Integer(numbers[s]) for s in size.free_symbols}))
