"""Studies: defining one, loading one from a file, and searching it.

The space comes without torch; `Study`, `load_study` and `Data` import it when they are first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydro_hpc.study.space import choice, integer, log_uniform, uniform

if TYPE_CHECKING:
    from hydro_hpc.study.data import Data
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.loading import load_study

__all__ = ["Data", "Study", "choice", "integer", "load_study", "log_uniform", "uniform"]


def __getattr__(name: str) -> Any:
    if name == "Study":
        from hydro_hpc.study.definition import Study

        return Study
    if name == "load_study":
        from hydro_hpc.study.loading import load_study

        return load_study
    if name == "Data":
        from hydro_hpc.study.data import Data

        return Data
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
