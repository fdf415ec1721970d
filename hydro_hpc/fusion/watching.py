"""One look at values that are not ours, and whether they are still what they were.

The look writes down what it saw in each container, by identity, so that looking again takes a few
microseconds. Of objects, classes and modules only attributes count whose names the code has that
reads them: nothing else of them can be reached.
"""

from __future__ import annotations

import collections
import functools
import logging
import os
import random
import sys
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import partial
from itertools import repeat
from operator import is_
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

LIBRARIES: Final = frozenset({"torch", "hydro_hpc", "numpy"})
MOST_VALUES: Final = 2_000  # in one look: each takes 20 to 40 ns of every call
MOST_BYTES: Final = 65_536  # of an array, which is compared whole
PLAIN: Final = (int, float, str, bool, complex, bytes, type(None))
MISSING: Final = object()
STANDARD_LIBRARY: Final = os.path.dirname(os.__file__)


class Unwatchable(Exception):  # noqa: N818 - a finding, not an error
    """Why a value cannot be looked at again in each call."""


class Held:
    """An object that is equal to itself alone, and lives as long as this does."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class Look:
    """What values were when they were looked at. `found` is told of functions among them, `names`
    are those of attributes that count (None: all do).
    """

    def __init__(
        self, names: Collection[str] | None, found: Callable[[types.FunctionType], None]
    ) -> None:
        self._names, self._found = names, found
        self._checks: list[Callable[[], bool]] = []
        self._met: dict[int, tuple[int, Any]] = {}  # kept alive: no id is used twice
        self._bases: set[type] = set()
        self._num_left = MOST_VALUES
        self._containers: list[tuple[Any, Any]] = []  # with what was in them
        self.holds_traced = False  # what only exists while a forward is traced, or under vmap

    def is_unchanged(self) -> bool:
        """Says whether all is what it was, to the same objects. If not, it may be equal still."""
        try:
            return all(check() for check in self._checks)
        except Exception:  # another thread writes to it, or a key's own comparison raised
            return False

    def put_back(self) -> None:
        """Takes out of lists and dicts what has come into them since."""
        for container, contents in self._containers:
            container.clear()
            container.update(contents) if isinstance(container, dict) else container.extend(
                contents
            )

    def along(self, value: Any, attributes: Iterable[str]) -> Hashable:
        """What `value.one.two` gives, looked at alone as far as plain attributes lead."""
        for name in attributes:
            if isinstance(value, types.ModuleType) and not is_users(value.__name__):
                reads_environment = value is os and name in ("environ", "environb", "getenv")
                return self.of(os.environ) if reads_environment else value.__name__
            own = getattr(value, "__dict__", None)
            if own is None or name not in own:
                break
            self._checks.append(partial(_same_named, own, len(own), (name,), (own[name],)))
            value = own[name]
        return self.of(value)

    def in_cell(self, cell: types.CellType, attributes: Iterable[str]) -> Hashable:
        """The same for what a variable of an outer function is."""
        content = _content(cell)
        self._checks.append(lambda: _content(cell) is content)
        return "unfilled" if content is MISSING else self.along(content, attributes)

    def named(self, namespace: Mapping[str, Any], names: Collection[str]) -> None:
        """Looks which objects these names of a namespace stand for."""
        self._count(len(names))
        values = [namespace.get(name, MISSING) for name in names]
        self._checks.append(partial(_same_named, namespace, None, tuple(names), tuple(values)))

    def of(self, value: Any) -> Hashable:
        """A fingerprint that is equal while the value, and what it holds, is."""
        if isinstance(value, PLAIN):
            return repr(value)
        if isinstance(value, fx.Proxy):
            self.holds_traced = True
            return Held(value)
        if id(value) in self._met:
            return "again", self._met[id(value)][0]
        self._met[id(value)] = len(self._met), value
        self._count(1)
        if isinstance(value, types.FunctionType):
            self._function(value)
            return Held(value)
        if isinstance(value, nn.Module):  # the model's own, or with attributes that `along` reads
            return type(value).__qualname__
        if isinstance(value, types.ModuleType):
            return self._attributes(value) if is_users(value.__name__) else value.__name__
        if isinstance(value, type):
            return self._class(value)
        return self._contents(value)

    def _contents(self, value: Any) -> Hashable:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, list | tuple | set | frozenset | collections.deque):
            self._count(len(value))
            self._checks.append(partial(_same_items, value, tuple(value)))
            if isinstance(value, list | collections.deque):
                self._containers.append((value, tuple(value)))
            return type(value).__name__, tuple([self.of(part) for part in value])
        if isinstance(value, bytearray | np.ndarray):
            return self._array(value)
        if isinstance(value, logging.Logger):
            return value.name
        inner = tuple([self.of(part) for part in _made_of(value)])
        if _is_library(type(value)) and (
            isinstance(value, random.Random)
            or hasattr(type(value), "__next__")
            or type(value).__module__.startswith("numpy.random")
        ):
            raise Unwatchable(f"is a {type(value).__name__}, which gives another value each time")
        return Held(value), inner, self._class(type(value)), self._attributes(value)

    def _dict(self, value: dict[Any, Any]) -> Hashable:
        self._count(len(value))
        kept = tuple(value), tuple(value.values())
        self._checks.append(partial(_same_dict, value, *kept))
        self._containers.append((value, dict(value)))
        return "dict", tuple([(self.of(key), self.of(part)) for key, part in value.items()])

    def _tensor(self, value: Tensor) -> Hashable:
        if torch._C._functorch.is_batchedtensor(value):
            self.holds_traced = True
            return Held(value)
        if value.is_inference():
            raise Unwatchable(
                "is a tensor made in inference mode, which does not say if it changes"
            )
        version = value._version
        self._checks.append(lambda: value._version == version)
        return Held(value), version

    def _array(self, value: bytearray | NDArray[Any]) -> Hashable:
        if (value.nbytes if isinstance(value, np.ndarray) else len(value)) > MOST_BYTES:
            raise Unwatchable("is too large to be compared in each call")
        seen = _bytes_of(value)
        self._checks.append(lambda: _bytes_of(value) == seen)
        return Held(value), seen

    def _function(self, value: types.FunctionType) -> None:
        if is_users(str(value.__globals__.get("__name__", ""))):
            self._found(value)
        self.of(getattr(value, "__wrapped__", None))

    def _class(self, cls: type) -> Hashable:
        """What instances may read as if it were theirs, and the methods that they may call."""
        if not is_users(cls.__module__):
            return cls.__qualname__
        bases = [base for base in cls.__mro__ if is_users(base.__module__)]
        new = [base for base in bases if base not in self._bases]
        self._bases |= set(new)
        return Held(cls), *[self._attributes(base) for base in new]

    def _attributes(self, value: Any) -> Hashable:
        own = getattr(value, "__dict__", {})
        names = tuple([name for name in own if self._counts(name)])
        seen = [own[name] for name in names]
        if names or isinstance(own, dict):
            self._count(len(names))
            self._checks.append(partial(_same_named, own, len(own), names, tuple(seen)))
        slots = () if isinstance(value, type) else tuple(filter(self._counts, _slots(type(value))))
        if slots:
            self._count(len(slots))
            in_slots = [getattr(value, name, MISSING) for name in slots]
            self._checks.append(partial(_same_slots, value, slots, tuple(in_slots)))
            names, seen = (*names, *slots), [*seen, *in_slots]
        return tuple([(name, self.of(part)) for name, part in zip(names, seen, strict=True)])

    def _counts(self, name: str) -> bool:
        if name.startswith("__") and name.endswith("__"):
            return name not in UNCALLED
        return self._names is None or name in self._names

    def _count(self, number: int) -> None:
        self._num_left -= number
        if self._num_left < 0:
            raise Unwatchable("holds more than can be compared in each call")


# Not for forward to call, or about the class itself.
UNCALLED: Final = frozenset(dir(type) + dir(object) + dir(nn.Module)) - {
    "__call__", "__eq__", "__ge__", "__getattr__", "__getattribute__", "__gt__", "__hash__",
    "__le__", "__lt__", "__ne__", "__or__", "__ror__",
} | {"__annotations__", "__dataclass_fields__", "__dataclass_params__", "__del__", "__match_args__",
     "__orig_bases__", "__parameters__", "__post_init__", "__slots__", "__static_attributes__",
     "__firstlineno__", "__builtins__", "__cached__", "__file__", "__loader__", "__name__",
     "__package__", "__path__", "__spec__", "__all__"}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def is_users(module: str) -> bool:
    """Says whether a module of Python, by name, may read what scripts change: not torch's say."""
    root = module.partition(".")[0]
    if root in LIBRARIES or root == "builtins":
        return False
    if root not in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(root), "__file__", None)  # a script may be called as one of them
    return file is not None and not str(file).startswith(STANDARD_LIBRARY)


def _is_library(cls: type) -> bool:
    return not is_users(cls.__module__)


def _made_of(value: Any) -> tuple[Any, ...]:
    """What is called, or read, where this is."""
    if isinstance(value, property):
        return (value.fget,)
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if value is os.environ:
        return (vars(value)["_data"],)
    if isinstance(value, collections.UserDict | collections.UserList):
        return (value.data,)
    if isinstance(value, collections.ChainMap):
        return (value.maps,)
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    return getattr(value, "__wrapped__", None), getattr(value, "func", None)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return MISSING


def _bytes_of(value: bytearray | NDArray[Any]) -> bytes:
    return bytes(value) if isinstance(value, bytearray) else value.tobytes()


def _slots(cls: type) -> list[str]:
    names: list[str] = []
    for base in cls.__mro__ if is_users(cls.__module__) else ():
        own = vars(base).get("__slots__", ())
        private = f"_{base.__name__.lstrip('_')}"
        names += [
            f"{private}{name}" if name.startswith("__") and not name.endswith("__") else name
            for name in ([own] if isinstance(own, str) else own)
        ]
    return names


def _same_named(
    namespace: Mapping[str, Any],
    number: int | None,
    names: tuple[str, ...],
    values: tuple[Any, ...],
) -> bool:
    return (number is None or len(namespace) == number) and all(
        map(is_, map(namespace.get, names, repeat(MISSING)), values)
    )


def _same_slots(value: Any, names: tuple[str, ...], values: tuple[Any, ...]) -> bool:
    return all(map(is_, map(getattr, repeat(value), names, repeat(MISSING)), values))


def _same_items(value: Collection[Any], items: tuple[Any, ...]) -> bool:
    return len(value) == len(items) and all(map(is_, value, items))


def _same_dict(value: dict[Any, Any], keys: tuple[Any, ...], parts: tuple[Any, ...]) -> bool:
    return _same_items(value, keys) and all(map(is_, value.values(), parts))
