"""The model shrinker: narrow surrogates that agree with their target.

Its commands come without torch, which the names below import when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hydro_hpc.surrogate.coordinates.checking import check, check_ladder
    from hydro_hpc.surrogate.coordinates.report import CheckReport
    from hydro_hpc.surrogate.narrow import Narrow
    from hydro_hpc.surrogate.shrinking import shrink
    from hydro_hpc.surrogate.surrogate import Surrogate

__all__ = ["CheckReport", "Narrow", "Surrogate", "check", "check_ladder", "shrink"]

_MODULES: Final = {
    "CheckReport": "coordinates.report",
    "Narrow": "narrow",
    "Surrogate": "surrogate",
    "check": "coordinates.checking",
    "check_ladder": "coordinates.checking",
    "shrink": "shrinking",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
