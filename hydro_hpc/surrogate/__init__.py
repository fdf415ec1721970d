"""The model shrinker: narrow surrogates that agree with their target.

Names are imported when they are first used: `hydro` finds its commands here without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hydro_hpc.surrogate.narrow import Narrow
    from hydro_hpc.surrogate.shrinking import shrink
    from hydro_hpc.surrogate.surrogate import Surrogate

__all__ = ["Narrow", "Surrogate", "shrink"]

_HOMES: Final = {"Narrow": "narrow", "Surrogate": "surrogate", "shrink": "shrinking"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
