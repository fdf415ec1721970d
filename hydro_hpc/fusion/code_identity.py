"""What the user's code is, as text: equal for equal code in any process, another where he has
changed it. By what it is compiled to, through the functions that it calls by name; libraries go by
their names. Not covered: values of a closure, functions that are found by attribute.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any, Final

from torch import nn

from hydro_hpc.fusion.watching import is_users

GOES_BY_NAME: Final = "torchvision"  # as the libraries do that scripts cannot change


def code_of(thing: object) -> list[str]:
    """Of a function, a class, a module, or another callable object; of None as well."""
    return list(_lines(thing, set()))


def _lines(thing: Any, seen: set[int]) -> Iterator[str]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, functools.partial):
        for part in (thing.func, *thing.args, *thing.keywords.values()):
            yield from _lines(part, seen)
    elif isinstance(thing, types.MethodType):
        yield from _lines(thing.__func__, seen)
    elif isinstance(thing, types.FunctionType):
        yield from _of_function(thing, seen)
    elif isinstance(thing, type):
        yield from _of_class(thing, seen)
    elif isinstance(thing, nn.Module):
        yield str(thing)
        for module in thing.modules():
            yield from _lines(type(module), seen)
    elif callable(thing):
        yield getattr(thing, "__name__", "")
        yield from _lines(type(thing), seen)


def _of_function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    yield f"{function.__module__}.{function.__qualname__}"
    if _is_of_library(function.__module__):
        return
    yield from _of_code(function.__code__)
    for cell in function.__closure__ or ():
        try:
            yield from _lines(cell.cell_contents, seen)
        except ValueError:  # not filled yet
            continue
    for name in sorted(_names(function.__code__)):
        found = function.__globals__.get(name)
        if isinstance(found, types.FunctionType | type | nn.Module):
            yield from _lines(found, seen)


def _of_class(cls: type, seen: set[int]) -> Iterator[str]:
    yield f"{cls.__module__}.{cls.__qualname__}"
    if _is_of_library(cls.__module__):
        return
    for base in cls.__mro__:
        if _is_of_library(base.__module__):
            continue
        for name, member in sorted(vars(base).items()):
            function = getattr(member, "__func__", member)
            if isinstance(function, types.FunctionType):
                yield name
                yield from _lines(function, seen)


def _of_code(code: types.CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _of_code(constant)
        elif isinstance(constant, frozenset):
            yield str(sorted(map(repr, constant)))  # in an order of its own in each process
        else:
            yield repr(constant)


def _names(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_of_library(module: str | None) -> bool:
    name = module or ""
    return name.partition(".")[0] == GOES_BY_NAME or not is_users(name)
