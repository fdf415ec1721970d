"""Does something once a module has been imported, without importing it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, hook: Callable[[ModuleType], None]) -> Callable[[], None]:
    """Calls `hook` with the module: now if it is there, else right after it was executed.

    Returns what undoes the waiting (not what the hook did). The hook must not raise.
    """
    module = sys.modules.get(name)
    if module is not None:
        hook(module)
        return lambda: None
    finder = _Finder(name, hook)
    sys.meta_path.insert(0, finder)
    return lambda: sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds one module the ordinary way, and hooks it once it was executed."""

    def __init__(self, name: str, hook: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._hook = hook

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _HookingLoader(spec.loader, self._hook)
                return spec
        return None


class _HookingLoader(Loader):
    def __init__(self, loader: Loader, hook: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._hook = hook

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._hook(module)
