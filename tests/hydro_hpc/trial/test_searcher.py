"""The gang's search: which trial is with whom, parked ones among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from hydro_hpc.study.description import StudyDescription
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Search
from hydro_hpc.study.space import choice
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.messages import AskTrials, TrialEnded, TrialsGiven, TrialsParked
from hydro_hpc.trial.searcher import GangSearch, close


class OpenGate:
    @contextmanager
    def work(self, name: str) -> Iterator[Callable[[str], None]]:
        del name
        yield lambda _: None


class SmallSearch:
    """Three trials, without Optuna."""

    def __init__(self) -> None:
        self.asked = 0
        self.ended: list[int] = []

    def ask(self) -> Trial | None:
        if self.asked == 3:
            return None
        self.asked += 1
        return Trial(number=self.asked - 1, seed=7, params={})

    def tell(self, number: int, *_: object, **__: object) -> None:
        self.ended.append(number)

    def is_done(self) -> bool:
        return len(self.ended) == 3


@pytest.fixture
def gang() -> GangSearch:
    return GangSearch(cast(Search, SmallSearch()), cast(LaneGate, OpenGate()))


def numbers(given: TrialsGiven) -> list[int]:
    return [trial["number"] for trial in given.trials]


def test_parked_trial_is_the_next_for_whoever_asks(gang: GangSearch) -> None:
    assert numbers(gang.ask(0, AskTrials(count=2))) == [0, 1]
    gang.answer(0, TrialsParked(numbers=[1]))
    assert numbers(gang.ask(1, AskTrials(count=2))) == [1, 2]


def test_parked_trial_does_not_come_back_to_a_worker_that_starts_again(gang: GangSearch) -> None:
    gang.ask(0, AskTrials(count=2))
    gang.answer(0, TrialsParked(numbers=[1]))
    assert numbers(gang.ask(1, AskTrials(count=1))) == [1]
    assert numbers(gang.ask(0, AskTrials(count=1, is_first=True))) == [0]


def test_study_is_not_over_while_a_trial_is_parked(gang: GangSearch) -> None:
    gang.ask(0, AskTrials(count=3))
    assert gang.ask(1, AskTrials(count=1)).is_over
    gang.answer(0, TrialsParked(numbers=[2]))
    given = gang.ask(0, AskTrials(count=1))
    assert (numbers(given), given.is_over) == ([2], False)


def test_trial_that_is_not_with_the_rank_cannot_be_parked_by_it(gang: GangSearch) -> None:
    gang.ask(0, AskTrials(count=1))
    gang.answer(1, TrialsParked(numbers=[0]))
    assert numbers(gang.ask(1, AskTrials(count=1))) == [1]


def test_asking_for_none_tells_only_whether_all_have_ended(gang: GangSearch) -> None:
    gang.ask(0, AskTrials(count=3))
    assert gang.ask(1, AskTrials(count=0)) == TrialsGiven(trials=[], is_over=False)
    for number in range(3):
        gang.answer(0, TrialEnded(number=number, state="complete", value=1.0))
    assert gang.ask(1, AskTrials(count=0)) == TrialsGiven(trials=[], is_over=True)


def test_the_end_of_a_study_says_that_its_best_is_at_an_edge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = StudyDescription(
        name="rates",
        space={"lr": choice(1e-3, 1e-2, 1e-1)},
        direction="maximize",
        search="random",
        pruner="none",
        trials=8,
        seed=0,
        settings={},
    )
    folder = StudyFolder(tmp_path, description.name)
    search = Search(description, folder)
    while (trial := search.ask()) is not None:
        search.tell(trial.number, trial.params["lr"])
    best = search.results().best
    close(search, folder)
    search.close()
    assert best is not None
    edge, last = capsys.readouterr().out.splitlines()
    assert edge.startswith(f"hydro-trial: lr of trial {best.number}, 0.1, is at the upper edge of")
    assert last.startswith("hydro-trial: 8 trials completed, 0 failed; best: ")
