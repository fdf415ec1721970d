"""The bounds of the coordinate check: which slopes are those of no right surrogate.

Measured with checks of 3 seeds and 4 widths on right surrogates of 14 kinds (record 0013): steps of
weights within -0.18 and 0.13, of vectors within -0.15 and 0.16, of logits within -0.12 and 0.10;
gains of weights within -0.10 and 0.15. With a fault, the layer that is named is beyond 0.5 (a fan
axis of a convolution under Adam), most beyond 0.95.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hydro_hpc.surrogate.coordinates.records import Role

SIZE: Final = 0.4  # of mean |x| after steps, upwards
SIGMAS: Final = 3.0  # of noise: what is less steep than these is unclear
CHANGE: Final = 0.5  # of mean |x_t - x_0|, upwards: what averages over a batch falls at first


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    low: float
    high: float

    def is_left_by(self, slope: float | None) -> bool:
        """None and NaN never do."""
        return slope is not None and (slope < self.low or slope > self.high)


ANY: Final = Bound(low=-math.inf, high=math.inf)
LEVEL: Final = Bound(low=-0.3, high=0.3)
STEP: Final[dict[Role, Bound]] = {
    **dict.fromkeys(Role, LEVEL),
    Role.PLAIN: ANY,  # gradients over the width add up to one, unless they are random
}
START: Final = Bound(low=-math.inf, high=0.3)  # of mean |x|: it falls behind an output layer
GAIN: Final[dict[Role, Bound]] = {
    Role.INPUT: LEVEL,
    Role.HIDDEN: LEVEL,
    Role.OUTPUT: Bound(low=-math.inf, high=0.3),  # falls as the root of the width, which is right
    Role.VECTOR: ANY,  # are constants mostly, as their owner chose
    Role.LOGITS: ANY,
    Role.FIXED: ANY,
    Role.PLAIN: ANY,
}
