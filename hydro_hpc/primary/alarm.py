"""When a slowdown is over its bound: a sequential test over pairs. Pure.

Page's CUSUM (Biometrika 1954) of log-likelihood ratios, once for a slowdown far over the bound and
once for a slight one. By Lorden (Annals of Mathematical Statistics 1971) the mean number of pairs
between two false alarms of one CUSUM with threshold h is at least e^h, as long as the noise is no
worse than the model.

The noise model is what shared machines show: mostly a narrow normal distribution, whose width is
measured, and now and then a pair whose halves ran at different speeds of the machine, or in one of
which the job stored a checkpoint or was stopped: a Cauchy distribution, whose heavy tails keep such
a pair from acquitting. Nor may it convict: what one pair can say is capped, and one far beyond
the slowdown looked for counts as one just beyond it. So three slow pairs in a row are needed, and
are enough. A pair without a slowdown is not far out, however high the bound is.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final

PAIRS_BETWEEN_FALSE_ALARMS: Final = 1000  # at least, on average, of both tests together
EXCESSES: Final = (0.09, 0.02)  # over the bound: what the two tests look for
FAR_OUT_SHARE: Final = 0.15  # of pairs whose halves ran at different speeds
FAR_OUT_SCALE: Final = 0.3  # half of them are farther out than this
LEAST_SCALE: Final = 0.01  # of the other pairs
FIRST_SCALE: Final = 0.04  # until `NUM_NEEDED` pairs have shown theirs
MOST_PER_PAIR: Final = 0.35  # of the threshold
BEYOND: Final = 2.0  # scales over the slowdown looked for, or below the bound; a pair farther out
# counts as that
FASTER: Final = 3.0  # scales below no slowdown, until a pair is far out on that side
NUM_NEEDED: Final = 8
NUM_REMEMBERED: Final = 40
MAD_TO_DEVIATION: Final = 1.4826  # of a normal distribution


class Noise:
    """How much pairs differ from each other, from the median absolute deviation of the last."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=NUM_REMEMBERED)

    def observe(self, log: float) -> None:
        """Takes one pair's log(open / shut)."""
        self._logs.append(log)

    def scale(self) -> float:
        """Returns a standard deviation that single pairs far out do not move."""
        if len(self._logs) < NUM_NEEDED:
            return FIRST_SCALE
        middle = statistics.median(self._logs)
        deviation = statistics.median(abs(log - middle) for log in self._logs)
        return max(MAD_TO_DEVIATION * deviation, LEAST_SCALE)


class Alarm:
    """Takes pairs one by one, and says after each whether the slowdown is over the bound."""

    def __init__(self, bound: float) -> None:
        self._bound = math.log1p(bound)
        self._threshold = math.log(PAIRS_BETWEEN_FALSE_ALARMS * len(EXCESSES))
        self._sums = [0.0] * len(EXCESSES)

    def observe(self, log: float, scale: float) -> bool:
        """Takes one pair's log(open / shut) and how much pairs scatter; returns whether to stop."""
        for number, excess in enumerate(EXCESSES):
            over = min(log - self._bound, excess + BEYOND * scale)
            if log > -FASTER * scale:
                over = max(over, -BEYOND * scale)
            gain = _log_likelihood(over - excess, scale) - _log_likelihood(over, scale)
            gain = min(gain, MOST_PER_PAIR * self._threshold)
            self._sums[number] = max(0.0, self._sums[number]) + gain
        return self.is_ringing

    @property
    def is_ringing(self) -> bool:
        """Whether the pairs since `reset` say that the slowdown is over the bound."""
        return max(self._sums) > self._threshold

    def reset(self) -> None:
        """Forgets the pairs so far: something has changed."""
        self._sums = [0.0] * len(EXCESSES)


def _log_likelihood(distance: float, scale: float) -> float:
    near = math.exp(-0.5 * (distance / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    far = 1 / (math.pi * FAR_OUT_SCALE * (1 + (distance / FAR_OUT_SCALE) ** 2))
    return math.log((1 - FAR_OUT_SHARE) * near + FAR_OUT_SHARE * far)
