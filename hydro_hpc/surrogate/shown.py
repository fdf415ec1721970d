"""What a call of the target shows that no module of torch's says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hydro_hpc.surrogate.initial import FixedWeight
from hydro_hpc.surrogate.layouts import Uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """`uses` of raw parameters, also those that the user says; `fixed` are buffers that are
    weights; `names` of the parameters that were used, and a sentence for what is to be `said`.
    """

    uses: Uses | None = None
    fixed: Mapping[str, FixedWeight] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    said: tuple[str, ...] = ()
