"""The model shrinker: narrow surrogates that agree with their target."""

from hydro_hpc.surrogate.shrinking import Surrogate, shrink

__all__ = ["Surrogate", "shrink"]
