"""The bounds of the coordinate check: which slopes are those of no right surrogate.

Measured with benchmarks/coordinates.py (results/coordinates.json) on right surrogates of an MLP, a
ResNet and two GPTs: steps of weights within -0.12 and 0.10 under Adam and AdamW, within -0.26 and
0.18 under SGD; of vectors within -0.27 and 0.21, and -0.53 and 0.41; of logits up to 0.05 and 0.17.
With a fault, the layer that is named is beyond 0.67 and 0.90, logits beyond 0.45 and 0.78.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hydro_hpc.surrogate.coordinates.records import Role
from hydro_hpc.surrogate.table import Family

START: Final = 0.3  # of mean |x|, upwards: outputs fall as a root of the width, which is right
SIZE: Final = 0.4  # of mean |x| after steps, upwards
CHANGE: Final = 0.5  # of mean |x_t - x_0|, upwards: what averages over a batch falls at first


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    low: float
    high: float

    def holds(self, slope: float) -> bool:
        """NaN never does."""
        return self.low <= slope <= self.high


# Of an output's bias: a batch's gradients on it may cancel, and then its few values say nothing; no
# axis of it grows, so that no rule is about it.
ANY: Final = Bound(low=-math.inf, high=math.inf)
WEIGHT: Final = (Role.INPUT, Role.HIDDEN, Role.OUTPUT)
STEP: Final[dict[Family, dict[Role, Bound]]] = {
    Family.ADAM: {
        **dict.fromkeys(WEIGHT, Bound(low=-0.3, high=0.3)),
        Role.VECTOR: Bound(low=-0.65, high=0.5),  # the rows of a batch pull at it together
        Role.LOGITS: Bound(low=-1.5, high=0.25),
        Role.PLAIN: ANY,
    },
    Family.SGD: {
        **dict.fromkeys(WEIGHT, Bound(low=-0.4, high=0.4)),
        Role.VECTOR: Bound(low=-0.85, high=0.9),
        Role.LOGITS: Bound(low=-1.5, high=0.5),
        Role.PLAIN: ANY,
    },
}
