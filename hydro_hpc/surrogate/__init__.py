"""The model shrinker: narrow surrogates that agree with their target."""

from hydro_hpc.surrogate.shrinking import shrink
from hydro_hpc.surrogate.surrogate import Surrogate

__all__ = ["Surrogate", "shrink"]
