"""Hydro: hyperparameter tuning inside the bubbles of pipeline-parallel training jobs.

`Study` is imported when it is first named: root's part of this package is standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study

__all__ = ["Study"]


def __getattr__(name: str) -> Any:
    if name == "Study":
        from hydro_hpc.study.definition import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
