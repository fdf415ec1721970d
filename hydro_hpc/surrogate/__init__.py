"""The model shrinker: narrow surrogates that agree with their target."""

from hydro_hpc.surrogate.narrow import Narrow
from hydro_hpc.surrogate.shrinking import shrink
from hydro_hpc.surrogate.surrogate import Surrogate

__all__ = ["Narrow", "Surrogate", "shrink"]
