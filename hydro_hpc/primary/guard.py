"""Keeps the slowdown of this primary, measured while it runs, under a bound. Pure: steps in,
decisions out.

Some steps run with every gate shut. Which ones is a function of the step's number alone, hence
equal on all ranks: the step time is global, so one rank's open bubble would blur another's shut
step. A shut block of two steps, together with the two open steps before it, is a *pair*; slow
drift of the machine cancels within a pair. The slowdown is the trimmed mean over pairs of (open /
shut - 1), with the 95% interval of Yuen (1974) from the winsorized variance. When to hold bubbles
shut is said by a sequential test over the same pairs (`alarm`).

After a trip bubbles are used again with more caution: windows are planned to end too early less
often. Caution falls again after many pairs without a trip.

Signs are kept: a bubble that is filled can make a primary faster.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Final

from hydro_hpc.primary.alarm import Alarm, Noise

BLOCK_STEPS: Final = 2
DENSE_EVERY: Final = 2  # of the blocks, at the start
SPARSE_EVERY: Final = 20  # of the blocks, afterwards
DECIDE_EVERY_STEPS: Final = 20  # retries only at multiples of this, on all ranks alike
PAIRS_REMEMBERED: Final = 1000  # for the estimate, which then costs the primary 0.3 ms
TRIM_FRAC: Final = 0.1
MOST_CAUTION: Final = 3
CALM_PAIRS: Final = 200  # of evidence without a trip, until caution falls by one


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """What the site or the job's owner chose."""

    bound: float = 0.01  # slowdown, 0.01 = 1%
    dense_steps: int = 400  # from the first shared step on

    def __post_init__(self) -> None:
        if not 0 < self.bound < 1:
            raise ValueError(f"guard bound is {self.bound}; give a fraction between 0 and 1")
        if self.dense_steps < 0:
            raise ValueError(f"dense_steps is {self.dense_steps}; give 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The slowdown with its 95% interval; infinitely wide before there are three pairs."""

    slowdown: float
    low: float
    high: float
    num_pairs: int


def is_shut(step: int, settings: GuardSettings) -> bool:
    """Says whether `step` (counted from the job's first) runs with every gate shut."""
    every = DENSE_EVERY if step < settings.dense_steps else SPARSE_EVERY
    return step // BLOCK_STEPS % every == every - 1


def estimate(ratios: list[float]) -> Estimate:
    """Returns the trimmed mean of `ratios` (open / shut - 1, one per pair) and its 95% interval."""
    count = len(ratios)
    if count < 3:
        return Estimate(slowdown=0.0, low=-math.inf, high=math.inf, num_pairs=count)
    ordered = sorted(ratios)
    cut = int(count * TRIM_FRAC)
    kept = ordered[cut : count - cut]
    mean = statistics.fmean(kept)
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    center = statistics.fmean(winsorized)
    squares = math.fsum((ratio - center) ** 2 for ratio in winsorized)
    error = math.sqrt(squares / (len(kept) * (len(kept) - 1)))
    half = _student_95(len(kept) - 1) * error
    return Estimate(slowdown=mean, low=mean - half, high=mean + half, num_pairs=count)


def _student_95(freedom: int) -> float:
    """Returns the two-sided 95% quantile of Student's t, to 0.5% (Cornish-Fisher expansion; table
    below 5).
    """
    exact = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
    if freedom in exact:
        return exact[freedom]
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


class Guard:
    """Collects step times and says whether bubbles may be opened."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.is_holding = False
        self.num_trips = 0
        self.caution = 0  # how often to double what a window that ends too early counts
        self._calm_pairs = 0
        self._block: list[int] = []  # step times of the current block
        self._is_evidence = True  # the current block was shared, as far as it goes
        self._open_mean_ns = 0.0  # of the open block before, 0: there is none
        self._open_is_evidence = False
        self._ratios: deque[float] = deque(maxlen=PAIRS_REMEMBERED)
        self._noise = Noise()
        self._alarm = Alarm(settings.bound)
        self._retry_at_step = 0
        self._shut_ns: deque[float] = deque(maxlen=PAIRS_REMEMBERED)
        self._open_ns: deque[float] = deque(maxlen=PAIRS_REMEMBERED)

    def observe(self, *, step: int, step_ns: int, was_shut: bool, was_shared: bool) -> None:
        """Takes one finished step. Where nothing could be opened (`was_shared` is false, bubbles
        are held), a pair still shows how much pairs scatter, but is no evidence.
        """
        if step % BLOCK_STEPS == 0:
            self._block.clear()
            self._is_evidence = True
        self._block.append(step_ns)
        self._is_evidence = self._is_evidence and was_shared and not self.is_holding
        if len(self._block) < BLOCK_STEPS:
            return
        mean_ns = statistics.fmean(self._block)
        if not was_shut:
            self._open_mean_ns = mean_ns
            self._open_is_evidence = self._is_evidence
        elif self._open_mean_ns:
            self._take_pair(self._open_mean_ns, mean_ns)
            self._open_mean_ns = 0.0

    def _take_pair(self, open_ns: float, shut_ns: float) -> None:
        ratio = open_ns / shut_ns - 1
        self._noise.observe(ratio)
        if self._is_evidence and self._open_is_evidence:
            self._ratios.append(ratio)
            self._open_ns.append(open_ns)
            self._shut_ns.append(shut_ns)
            self._alarm.observe(ratio, self._noise.scale())
            self._calm_pairs += 1
            if self._calm_pairs >= CALM_PAIRS:
                self._calm_pairs = 0
                self.caution = max(0, self.caution - 1)

    def decide(self, next_step: int) -> bool:
        """Trips at once, retries at multiples of DECIDE_EVERY_STEPS; returns whether bubbles are
        held shut.
        """
        if self.is_holding:
            if next_step >= self._retry_at_step and next_step % DECIDE_EVERY_STEPS == 0:
                self.is_holding = False
        elif self._alarm.is_ringing:
            self._alarm.reset()
            self.is_holding = True
            self.num_trips += 1
            self.caution = min(MOST_CAUTION, self.caution + 1)
            self._calm_pairs = 0
            self._retry_at_step = next_step + DECIDE_EVERY_STEPS * 2**self.num_trips
        return self.is_holding

    def estimate(self) -> Estimate:
        """Returns the slowdown over the pairs remembered."""
        return estimate(list(self._ratios))

    def step_times_ns(self) -> tuple[int, int]:
        """Returns the median (open, shut) step times over the pairs, (0, 0) before the first."""
        if not self._shut_ns:
            return 0, 0
        return int(statistics.median(self._open_ns)), int(statistics.median(self._shut_ns))
