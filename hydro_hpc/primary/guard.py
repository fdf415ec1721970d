"""Keeps the slowdown of this primary, measured while it runs, under a bound. Pure: steps in,
decisions out.

Some steps run with every gate shut. Which ones is a function of the step's number alone, hence
equal on all ranks: the step time is global, so one rank's open bubble would blur another's shut
step. It has no period: what a job does every so many steps (an evaluation, a checkpoint) falls on
open and shut steps alike. A shut step and the two open ones beside it are a *pair*: the machine's
speed drifts within a second, and evenly over so few steps. A pair counts as log(open / shut),
`open` being the geometric mean, since the mean of a noisy quotient lies above the quotient of the
means (by half the variance: 1% where pairs scatter by 14%). The slowdown is the trimmed mean over
pairs, with the 95% interval of Yuen (1974) from the winsorized variance. When to hold bubbles shut
is said by a sequential test over the same pairs (`alarm`).

After a trip bubbles are used again with more caution: windows are planned to end too early less
often. Caution falls again after many pairs without a trip.

Signs are kept: a bubble that is filled can make a primary faster.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from hydro_hpc.primary.alarm import Alarm, Noise

DENSE_CELL: Final = 8  # steps at the start, every second of them shut: the even or the odd ones
SPARSE_CELL: Final = 20  # steps afterwards, one of them shut
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
    if step < settings.dense_steps:
        return (step + _scramble(step // DENSE_CELL)) % 2 == 1
    cell, place = divmod(step, SPARSE_CELL)
    shut_place = _scramble(cell) % SPARSE_CELL
    if shut_place == 0 and _scramble(cell - 1) % SPARSE_CELL == SPARSE_CELL - 1:
        shut_place = 1  # the step before is shut, the last one of its cell
    return place == shut_place


def _scramble(number: int) -> int:
    """Returns 32 bits that look like chance (the last steps of MurmurHash3)."""
    bits = number * 0x9E3779B1 & 0xFFFFFFFF
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return bits ^ bits >> 16


def log_open_over_shut(before: float, shut: float, after: float) -> float:
    """Returns what one pair says: the times of a shut step and of the open ones beside it."""
    return math.log(math.sqrt(before * after) / shut)


def estimate(logs: list[float]) -> Estimate:
    """Returns the trimmed mean of `logs` (log(open / shut), one per pair) and its 95% interval, as
    slowdowns.
    """
    count = len(logs)
    if count < 3:
        return Estimate(slowdown=0.0, low=-math.inf, high=math.inf, num_pairs=count)
    ordered = sorted(logs)
    cut = int(count * TRIM_FRAC)
    kept = ordered[cut : count - cut]
    mean = statistics.fmean(kept)
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    center = statistics.fmean(winsorized)
    squares = math.fsum((log - center) ** 2 for log in winsorized)
    error = math.sqrt(squares / (len(kept) * (len(kept) - 1)))
    half = _student_95(len(kept) - 1) * error
    return Estimate(
        slowdown=math.expm1(mean),
        low=math.expm1(mean - half),
        high=math.expm1(mean + half),
        num_pairs=count,
    )


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


class FinishedStep(NamedTuple):
    """What is known of a step; `is_evidence`: beside a tenant, bubbles not held."""

    number: int
    step_ns: int
    was_shut: bool
    is_evidence: bool


class Guard:
    """Collects step times and says whether bubbles may be opened."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.is_holding = False
        self.num_trips = 0
        self.caution = 0  # how often to double what a window that ends too early counts
        self._severity = 0  # how often to double the time that bubbles are held
        self._calm_pairs = 0
        self._last: deque[FinishedStep] = deque(maxlen=3)
        self._logs: deque[float] = deque(maxlen=PAIRS_REMEMBERED)
        self._noise = Noise()
        self._alarm = Alarm(settings.bound)
        self._retry_at_step = 0
        self._shut_ns: deque[float] = deque(maxlen=PAIRS_REMEMBERED)
        self._open_ns: deque[float] = deque(maxlen=PAIRS_REMEMBERED)

    def observe(self, *, step: int, step_ns: int, was_shut: bool, was_shared: bool) -> None:
        """Takes one finished step. Where nothing could be opened (`was_shared` is false, bubbles
        are held), a pair still shows how much pairs scatter, but is no evidence.
        """
        is_evidence = was_shared and not self.is_holding
        self._last.append(FinishedStep(step, step_ns, was_shut, is_evidence))
        if len(self._last) == 3:
            before, shut, after = self._last
            is_pair = not before.was_shut and shut.was_shut and not was_shut
            if is_pair and after.number - before.number == 2:
                self._take_pair(before, shut, after)

    def _take_pair(self, before: FinishedStep, shut: FinishedStep, after: FinishedStep) -> None:
        log = log_open_over_shut(before.step_ns, shut.step_ns, after.step_ns)
        self._noise.observe(log)
        if not (before.is_evidence and shut.is_evidence and after.is_evidence):
            return
        self._logs.append(log)
        self._open_ns.append(math.sqrt(before.step_ns * after.step_ns))
        self._shut_ns.append(shut.step_ns)
        self._alarm.observe(log, self._noise.scale())
        self._calm_pairs += 1
        if self._calm_pairs >= CALM_PAIRS:
            self._calm_pairs = 0
            self.caution = max(0, self.caution - 1)
            self._severity = max(0, self._severity - 1)

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
            self._severity += 1
            self._calm_pairs = 0
            self._retry_at_step = next_step + DECIDE_EVERY_STEPS * 2**self._severity
        return self.is_holding

    def estimate(self) -> Estimate:
        """Returns the slowdown over the pairs remembered."""
        return estimate(list(self._logs))

    def step_times_ns(self) -> tuple[int, int]:
        """Returns the median (open, shut) step times over the pairs, (0, 0) before the first."""
        if not self._shut_ns:
            return 0, 0
        return int(statistics.median(self._open_ns)), int(statistics.median(self._shut_ns))
