"""Which candidate the target trains next: decisions without a clock or a file.

Eager transfer: verifying starts once half of a study's trials have ended, beside the other half.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hydro_hpc.surrogate.transfer.standing import Candidate, Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Trains this candidate on the target, from where it was left."""

    candidate: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing is to be done until the study has come further."""


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
    if standing.is_running and 2 * standing.ended < standing.planned:
        return Wait()
    open_ones = [c for c in standing.candidates[:count] if c.number not in verified]
    if not open_ones:
        return Wait() if standing.is_running else Done()
    for candidate in open_ones:
        if candidate.number == current:
            return Train(candidate=candidate)
    return Train(candidate=open_ones[0])
