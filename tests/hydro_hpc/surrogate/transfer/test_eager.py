from __future__ import annotations

import pytest

from hydro_hpc.surrogate.transfer.eager import Action, Done, Train, Wait, WaitsFor, decide
from hydro_hpc.surrogate.transfer.standing import Candidate, Standing


def candidate(number: int) -> Candidate:
    return Candidate(number=number, value=0.5, params={}, seed=number)


def standing(*best: int, ended: int = 8, is_running: bool = True) -> Standing:
    return Standing(
        planned=16,
        ended=ended,
        in_work=1,
        failed=0,
        why_failed="",
        candidates=tuple(candidate(number) for number in best),
        is_running=is_running,
    )


@pytest.mark.parametrize(
    ("study", "verified", "current", "expected"),
    [
        (standing(3, 1, ended=7), set(), None, Wait(what=WaitsFor.HALF)),
        (standing(3, 1, ended=7, is_running=False), set(), None, Train(candidate=candidate(3))),
        (standing(3, 1), set(), None, Train(candidate=candidate(3))),
        (standing(3, 1), {3}, 3, Train(candidate=candidate(1))),
        (standing(3, 1, 2), {3}, 1, Train(candidate=candidate(1))),
        (standing(3, 1), {3, 1}, None, Wait(what=WaitsFor.REST)),
        (standing(3, 1, is_running=False), {3, 1}, None, Done()),
        (standing(), set(), None, Wait(what=WaitsFor.CANDIDATE)),
        (standing(is_running=False), set(), None, Done()),
    ],
)
def test_the_best_are_trained_from_the_studys_half_on(
    study: Standing, verified: set[int], current: int | None, expected: Action
) -> None:
    assert decide(study, verified, current=current, count=2) == expected


def test_a_candidate_in_training_goes_on_while_it_is_among_the_best() -> None:
    assert decide(standing(5, 3), set(), current=3, count=2) == Train(candidate=candidate(3))


def test_a_candidate_in_training_is_left_for_a_better_one() -> None:
    assert decide(standing(5, 4, 3), set(), current=3, count=2) == Train(candidate=candidate(5))
