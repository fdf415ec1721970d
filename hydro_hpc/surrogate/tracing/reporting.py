"""What is said of a model that was followed: which of its sizes shrink, which stay and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import sympy

from hydro_hpc.surrogate.report import Kept, Report, Width
from hydro_hpc.surrogate.tracing.sizes import (
    Sizes,
    axes_symbols,
    counts_of_groups,
    factors_of,
    value,
    widths,
)
from hydro_hpc.surrogate.tracing.symbols import OF_TORCH
from hydro_hpc.surrogate.tracing.trace import Trace
from hydro_hpc.surrogate.tracing.uses import How

BOTTLENECK: Final = 6
"""Times narrower than what is made of it: the blocks of mobile networks are not that narrow."""


def report_of(seen: Trace, sizes: Sizes, by: float, fixed: frozenset[sympy.Symbol]) -> Report:
    """`fixed` are those that the user keeps."""
    shrunk = [_width(seen, sizes, by, one, paths) for one, paths in _shrunk(seen, sizes).items()]
    multiplied = {size for size in seen.head_sizes if size.is_Symbol}
    inside = widths(seen) - _of_example(seen)
    stays = (axes_symbols(seen) & (inside | multiplied)) - sizes.shrunk
    shared = {one: product for product in _shared(seen, sizes) for one in product}
    kept = [
        Kept(
            paths=tuple(_paths(seen, symbol)),
            size=seen.numbers[symbol],
            why=_why(seen, symbol, fixed, shared.get(symbol, ())),
        )
        for symbol in _in_order(seen, stays | (shared.keys() - sizes.shrunk - multiplied))
    ]
    warnings = (*_unasked(seen, sizes), *_bottlenecks(seen, sizes))
    return Report(widths=tuple(shrunk), kept=(*kept, *_literal(seen)), warnings=warnings)


def _shrunk(seen: Trace, sizes: Sizes) -> dict[sympy.Expr, list[str]]:
    """By size, which is a symbol or a product of several: what has an axis of it, or of what comes
    of it.
    """
    found: dict[sympy.Expr, list[str]] = {}
    for name, own in seen.sizes.items():
        for size in own:
            if several := factors_of(size):
                if sizes.shrunk.intersection(several):
                    found.setdefault(sympy.Mul(*several), []).append(name)
            else:
                for symbol in sorted(size.free_symbols & sizes.shrunk, key=str):
                    found.setdefault(symbol, []).append(name)
    return found


def _width(seen: Trace, sizes: Sizes, by: float, size: sympy.Expr, paths: list[str]) -> Width:
    of_it = [name for name in dict.fromkeys(paths) if size in seen.sizes[name]]
    return Width(
        paths=tuple(dict.fromkeys([*of_it, *paths])),
        target=value(size, seen.numbers),
        size=value(size, sizes.numbers),
        by=by,
    )


def _of_example(seen: Trace) -> set[sympy.Expr]:
    """Sizes that layers take of nothing but the example, which stay."""
    taken: dict[bool, set[sympy.Expr]] = {True: set(), False: set()}
    for name, uses in seen.uses.items():
        for use in uses:
            if use.how is How.PRODUCT and use.into is not None:
                taken[use.takes_example].add(seen.sizes[name][use.into])
    return taken[True] - taken[False]


def _shared(seen: Trace, sizes: Sizes) -> Iterator[tuple[sympy.Symbol, ...]]:
    """Products of which one factor shrinks, but for groups of channels."""
    groups = counts_of_groups(seen)
    for product in dict.fromkeys(factors_of(size) for own in seen.sizes.values() for size in own):
        if sizes.shrunk.intersection(product) and not groups.intersection(product):
            yield product


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
    given = {seen.sizes[n][u.out] for n, us in seen.uses.items() for u in us if u.out is not None}
    for symbol in _in_order(seen, sizes.shrunk):
        around = [
            value(own[use.out], seen.numbers)
            for name, uses in seen.uses.items()
            for use in uses
            if use.how is How.PRODUCT and use.into is not None and use.out is not None
            if (own := seen.sizes[name])[use.into] == symbol
        ]
        target = seen.numbers[symbol]
        if symbol in given and around and min(around) > BOTTLENECK * target:
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


def _why(
    seen: Trace,
    symbol: sympy.Symbol,
    fixed: frozenset[sympy.Symbol],
    shared: Collection[sympy.Symbol],
) -> str:
    if symbol in fixed:
        return "as asked"
    if symbol in seen.head_sizes:
        return "since activations are multiplied over it, as over the size of heads"
    if shared:
        sizes = " and ".join(str(seen.numbers[each]) for each in _in_order(seen, shared))
        return f"since of {sizes}, which are one axis together, one alone shrinks"
    return "no smaller size goes through the model"


def _literal(seen: Trace) -> Iterator[Kept]:
    """Sizes of what layers take that the code says as numbers, but for those of the example."""
    by_line: dict[tuple[int, str], list[str]] = {}
    for name, uses in seen.uses.items():
        for use in uses:
            if use.how is How.PRODUCT and use.into is not None and not use.takes_example:
                given = seen.given[name][use.into]
                if given in seen.lines and seen.sizes[name][use.into].is_number:
                    key = (int(seen.sizes[name][use.into]), seen.lines[given])
                    by_line.setdefault(key, []).append(name)
    for (size, line), paths in by_line.items():
        why = (
            f"{line} says it as a number: where it is a width, and none of what the model takes, "
            "let it be said by the shape of a tensor, and not int()"
        )
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
