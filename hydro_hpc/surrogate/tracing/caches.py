"""What a model's own code keeps between calls beside its modules: nothing of a call in symbols may
stay there, and no symbol is a key.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from torch import nn

NOT_USERS: Final = sys.stdlib_module_names | {"torch", "sympy", "numpy", "hydro_hpc", "builtins"}
CACHED: Final = type(functools.lru_cache(lambda: None))


@contextmanager
def without_caches(model: nn.Module) -> Iterator[None]:
    """Within it functions of the model's own files compute what `functools.cache` would keep; after
    it the dicts of these files have what they had.
    """
    files = [vars(file) for file in _files(model)]
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    own = [cls for cls in classes if not _is_foreign(cls.__module__)]
    dicts = [
        (each, dict(each))
        for file in files
        for name, each in file.items()
        if type(each) is dict and not name.startswith("__")
    ]
    functions: list[tuple[Any, str, Any]] = [
        (holder, name, kept)
        for holder, names in [*zip(files, files, strict=True), *((cls, vars(cls)) for cls in own)]
        for name, kept in [*names.items()]
        if isinstance(kept, CACHED)
    ]
    for holder, name, kept in functions:
        _put(holder, name, kept.__wrapped__)
    try:
        yield
    finally:
        for holder, name, kept in functions:
            _put(holder, name, kept)
        for each, before in dicts:
            if len(each) != len(before) or any(each[key] is not before.get(key) for key in each):
                each.clear()
                each.update(before)


def _put(holder: Any, name: str, value: object) -> None:
    if isinstance(holder, type):
        setattr(holder, name, value)
    else:
        holder[name] = value


def _files(model: nn.Module) -> list[ModuleType]:
    """Those in which the classes of its modules are, and what these import of the like."""
    names = [cls.__module__ for module in model.modules() for cls in type(module).__mro__]
    found: dict[str, ModuleType] = {}
    while names:
        name = names.pop()
        if name in found or _is_foreign(name) or name not in sys.modules:
            continue
        found[name] = sys.modules[name]
        for value in vars(found[name]).values():
            imported = value.__name__ if isinstance(value, ModuleType) else _module_of(value)
            names += [imported] if isinstance(imported, str) else []
    return [*found.values()]


def _module_of(value: object) -> object:
    is_code = isinstance(value, type | CACHED) or callable(value)
    return getattr(value, "__module__", None) if is_code else None


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] in NOT_USERS
