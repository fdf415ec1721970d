"""Values that a forward reads from outside of its model (globals, closures, attributes of classes
and of modules of Python): a graph would freeze them, so it holds only while they stay.

Found by reading the byte code of the classes of the model and of the functions that it calls by
name. Not found: what is reached in other ways, as through a container of functions.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

NOT_USERS: Final = ("torch", "hydro_hpc", "numpy", "builtins", "typing", "collections", "functools")
SMALL: Final = 32  # elements of a container that are looked at
PLAIN: Final = (int, float, str, bool, complex, bytes, type(None))

Reader = Callable[[], Any]


class OutsideValues:
    """The values that the forward of one model reads. `state` is equal while they are."""

    def __init__(self, model: nn.Module) -> None:
        self._readers: list[Reader] = []
        self._seen: set[int] = set()
        classes = {base for module in model.modules() for base in type(module).__mro__}
        for cls in sorted(filter(_is_users, classes), key=lambda c: (c.__module__, c.__qualname__)):
            self._readers.append(partial(_plain_attributes, cls))
            for value in vars(cls).values():
                self._scan(_function_in(value))
        for module in model.modules():
            for value in vars(module).values():
                self._scan(_function_in(value))

    def state(self) -> tuple[str, ...]:
        return tuple([_fingerprint(read()) for read in self._readers])

    def _scan(self, function: types.FunctionType | None) -> None:
        """Watches what a function reads, and what the functions that it names read."""
        if function is None or id(function) in self._seen or not _is_users(function):
            return
        self._seen.add(id(function))
        for code in _codes(function.__code__):
            instructions = list(dis.get_instructions(code))
            for instruction, following in zip(instructions, [*instructions[1:], None], strict=True):
                if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                    name = str(instruction.argval)
                    after = following.argval if following and "ATTR" in following.opname else None
                    self._watch_global(function.__globals__, name, after)
        for cell in function.__closure__ or ():
            self._watch(partial(_content, cell))

    def _watch_global(self, namespace: dict[str, Any], name: str, attribute: str | None) -> None:
        value = namespace.get(name)
        if isinstance(value, types.ModuleType):
            if attribute and not value.__name__.startswith(NOT_USERS):
                self._watch(lambda: getattr(value, attribute, None))
        else:
            self._watch(lambda: namespace.get(name))

    def _watch(self, read: Reader) -> None:
        value = read()
        function = _function_in(value)
        if function is not None:
            self._scan(function)
        elif isinstance(value, type):
            if _is_users(value):
                self._readers.append(partial(_plain_attributes, value))
        elif not isinstance(value, types.ModuleType | types.BuiltinFunctionType | nn.Module):
            self._readers.append(read)


def _is_users(thing: Any) -> bool:
    return not str(getattr(thing, "__module__", "")).startswith(NOT_USERS)


def _function_in(value: Any) -> types.FunctionType | None:
    """The function that a method, a property or a decorated one is made of."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    value = getattr(value, "__wrapped__", value)
    return value if isinstance(value, types.FunctionType) else None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's own code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _plain_attributes(cls: type) -> dict[str, Any]:
    """What instances may read as if it were theirs."""
    return {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, PLAIN) and not name.startswith("__")
    }


def _fingerprint(value: Any, depth: int = 2) -> str:
    """Text that changes when a value does, as far as it is looked into."""
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return f"{id(value)}.{value._version}"
    if depth and isinstance(value, dict) and len(value) <= SMALL:
        return str([(repr(key), _fingerprint(part, depth - 1)) for key, part in value.items()])
    if depth and isinstance(value, list | tuple | set) and len(value) <= SMALL:
        return str([_fingerprint(part, depth - 1) for part in value])
    attributes = getattr(value, "__dict__", None)
    if depth and isinstance(attributes, dict) and 0 < len(attributes) <= SMALL:
        return f"{id(value)}{_fingerprint(dict(attributes), depth - 1)}"
    return str(id(value))
