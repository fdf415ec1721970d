"""Which candidate the target trains next: decisions without a clock or a file.

Eager transfer: verifying starts once half of a study's trials have ended, beside the other half.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from hydro_hpc.surrogate.transfer.standing import Candidate, Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Trains this candidate on the target, from where it was left."""

    candidate: Candidate


class WaitsFor(Enum):
    """What there must be of a study that is running."""

    HALF = "half of its trials"
    CANDIDATE = "a first trial that completes"
    REST = "the rest of its trials"  # all that was best so far is verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing is to be done until the study has come further."""

    what: WaitsFor


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The study has ended, and its best are verified."""


Action = Train | Wait | Done


def decide(
    standing: Standing, verified: Collection[int], *, current: int | None, count: int
) -> Action:
    """`count`: how many of the best are to be verified. `current` is in training, at the end of an
    epoch: it goes on while it is among them, and is left for a better one otherwise.
    """
    if standing.is_running and standing.ended < half_of(standing.planned):
        return Wait(what=WaitsFor.HALF)
    open_ones = [c for c in standing.candidates[:count] if c.number not in verified]
    if not open_ones and not standing.is_running:
        return Done()
    if not open_ones:
        return Wait(what=WaitsFor.REST if standing.candidates else WaitsFor.CANDIDATE)
    for candidate in open_ones:
        if candidate.number == current:
            return Train(candidate=candidate)
    return Train(candidate=open_ones[0])


def half_of(planned: int) -> int:
    """How many trials must have ended before verifying starts."""
    return (planned + 1) // 2
