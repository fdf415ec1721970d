"""What is in an object of Python's, as text that changes when anything in it does.

Read are attributes (in slots too), containers, arrays, what functions hold, and of all else what a
copy would be made of: generators of random numbers and iterators tell where they are.
"""

from __future__ import annotations

import copyreg
import functools
import sys
import types
import warnings
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx, nn

from hydro_hpc.fusion.back_references import WEAK, attributes_of, leads_on
from hydro_hpc.fusion.hidden import is_pause_point

PLAIN: Final = (str, int, float, complex, bytes, type(None))
EMPTIED: Final = (OrderedDict, dict)  # most that a module has: hooks that nobody registered
# Known by identity alone: they do not change, or are not a model's.
SAME: Final = (
    type, types.ModuleType, types.CodeType, types.BuiltinFunctionType, fx.Proxy, fx.Node, *WEAK,
)  # fmt: skip
SHOWN: Final = (
    dict, list, tuple, set, frozenset, deque, types.MethodType, types.CellType, functools.partial,
    nn.Module,
)  # fmt: skip
KNOWN: Final = {*sys.stdlib_module_names, "torch", "numpy"}
# Of what a function holds, which may lead anywhere, so much is read, and nothing of a user's asked.
MOST: Final = 10_000
DEEPEST: Final = 50


class Unreadable(Exception):  # noqa: N818 - a finding, not an error
    """A user's object does not show what is in it."""


class Contents:
    """Texts of objects, to compare with those of another time. Parts of a model are known by their
    identity. What identities are of is kept in `alive`: none is used twice while that is.
    """

    def __init__(self, parts: Iterable[object]) -> None:
        self.alive: list[Any] = list(parts)
        self._parts = {id(part) for part in self.alive}
        self._texts: dict[int, str] = {}
        self._in_function: set[int] | None = None
        self._depth = 0
        self._is_fresh = False  # made for this reading: its identity says nothing

    def text(self, value: Any) -> str:
        """`Unreadable` if a user's class hides what is in it."""
        if type(value) in EMPTIED and not value:
            return "{}"
        if isinstance(value, PLAIN):
            return repr(value)
        if id(value) in self._texts:
            return self._texts[id(value)]
        self.alive.append(value)
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        if id(value) in self._parts or isinstance(value, SAME) or is_pause_point(value):
            return _name(value)
        if self._in_function is not None:
            return self._held_by_function(value, self._in_function)
        self._texts[id(value)] = type(value).__name__  # met again inside of itself
        is_function = isinstance(value, types.FunctionType)
        self._texts[id(value)] = self._of_function(value) if is_function else self._of_all(value)
        return self._texts[id(value)]

    def _of_all(self, value: Any) -> str:
        return f"{type(value).__name__}({','.join(map(self.text, self._inside(value)))})"

    def _of_function(self, function: types.FunctionType) -> str:
        self._in_function = set()
        try:
            return self._of_all(function)
        finally:
            self._in_function = None

    def _held_by_function(self, value: Any, seen: set[int]) -> str:
        if id(value) in seen or len(seen) >= MOST or self._depth >= DEEPEST:
            return type(value).__name__ if self._is_fresh else _name(value)
        seen.add(id(value))
        self._depth += 1
        try:
            return self._of_all(value)
        finally:
            self._depth -= 1

    def _of_tensor(self, x: Tensor) -> str:
        """Writes in place count up its version, but for those by `data`."""
        version = 0 if x.is_inference() else x._version
        written = "" if id(x) in self._parts else _of_small_tensor(x)
        name = type(x).__name__ if self._is_fresh else _name(x)
        return f"{name}.{version}.{written}"

    def _inside(self, value: Any) -> Iterable[Any]:
        if isinstance(value, np.ndarray):
            return _of_array(value)
        if isinstance(value, torch.Generator):
            return (value.get_state().numpy().tobytes(),)
        if isinstance(value, types.FunctionType):
            return (value.__code__, *leads_on(value))
        if isinstance(value, SHOWN):
            return leads_on(value)
        if _says_itself(value) and self._may_ask(value):
            return self._reduced(value)
        attributes = attributes_of(value)
        if attributes or hasattr(value, "__dict__") or not self._may_ask(value):
            return (attributes,)
        return self._reduced(value)

    def _may_ask(self, value: Any) -> bool:
        """Says whether its own code may run."""
        return self._in_function is None or _is_known(value)

    def _reduced(self, value: Any) -> Iterable[Any]:
        """What it would be copied by."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of iterators, that this will end
                parts: Any = value.__reduce_ex__(4)
        except Exception as error:  # a user's class, or one that has no copies
            attributes = attributes_of(value)
            if not attributes and not _is_known(value):
                raise Unreadable(type(value).__name__) from error
            return (attributes,)
        if isinstance(parts, str):
            return (parts,)
        made, given, *state = parts
        items = [list(part) if part is not None else None for part in state[1:3]]
        before, self._is_fresh = self._is_fresh, True
        try:
            return ["".join(map(self.text, [made, given, *state[:1], *items]))]
        finally:
            self._is_fresh = before


def _name(value: Any) -> str:
    return f"{type(value).__name__}@{id(value)}"


def _of_array(array: np.ndarray[Any, Any]) -> list[Any]:
    if array.dtype.hasobject:
        return [array.shape, *array.flat]
    return [array.dtype.str, array.shape, zlib.crc32(np.ascontiguousarray(array).tobytes())]


def _of_small_tensor(x: Tensor) -> str:
    if x.numel() > MOST or x.device.type != "cpu":
        return ""
    try:
        return repr(x.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    except (RuntimeError, TypeError):  # of a kind that has no such memory
        return ""


def _says_itself(value: Any) -> bool:
    """Says whether its class has a way of its own to be copied, by which it may hold more or less
    than attributes.
    """
    cls: Any = type(value)
    return (
        cls in copyreg.dispatch_table
        or cls.__reduce_ex__ is not object.__reduce_ex__
        or cls.__reduce__ is not object.__reduce__
        or cls.__getstate__ is not object.__getstate__
    )


def _is_known(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in KNOWN
