"""The search: which hyperparameters come next, and the book of what came out. No torch here.

One process (the gang's rank 0, or `Study.run`) owns it. Every change is on disk before the call
returns, so that killing the process at any time loses nothing: trials that were in work come out of
`ask` again, with the same number, seed and hyperparameters.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hydro_hpc.errors import StudyError
from hydro_hpc.study.description import SearchName, StudyDescription
from hydro_hpc.study.edges import at_edges
from hydro_hpc.study.folder import StudyFolder, spoiled
from hydro_hpc.study.space import Choice, Distribution, Integer, LogUniform, Params, Uniform
from hydro_hpc.study.trial import Outcome, Trial, trial_seed

_STATES: Final[dict[Outcome, TrialState]] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_SAMPLERS: Final[dict[SearchName, Callable[[int], optuna.samplers.BaseSampler]]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTrial:
    """The trial with the best value, and the seed with which it can be trained again."""

    number: int
    value: float
    params: Params
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """How many trials ended in which way, and the best of those that completed; `at_edges`: a
    sentence for each of its hyperparameters that lies at the edge of the space.
    """

    completed: int
    pruned: int
    failed: int
    in_work: int
    best: BestTrial | None
    at_edges: tuple[str, ...]


class Search:
    """Hands out trials (`ask`) and takes their results (`tell`) until there are `trials` of them.

    Failed and pruned trials count: a study whose every trial fails ends.
    """

    def __init__(self, description: StudyDescription, folder: StudyFolder) -> None:
        """Opens the folder, or raises StudyError: in use elsewhere, or another study's."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.open(description)
        self._description = description
        self._folder = folder
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(folder.journal))),
                study_name=description.name,
                direction=description.direction,
                pruner=_pruner(description),
                load_if_exists=True,
            )
        except ValueError:  # of JSON
            folder.close()
            raise StudyError(spoiled(folder)) from None
        self._interrupted = deque(t.number for t in self._in_work())
        self._live: dict[int, optuna.trial.Trial] = {}  # asked for by this process

    def close(self) -> None:
        self._folder.close()

    def ask(self) -> Trial | None:
        """Returns a trial to train, those that an earlier process left unfinished first.

        None: all trials are handed out; `is_done` says whether they have ended, too.
        """
        while self._interrupted:
            trial = self._frozen(self._interrupted.popleft())
            if not trial.state.is_finished():
                return self._choose(self._trial(trial))
        number = self._num_asked()
        if number >= self._description.trials:
            return None
        # A sampler of its own per trial: what it draws does not depend on restarts.
        seed = trial_seed(self._description.seed, -1 - number)
        self._study.sampler = _SAMPLERS[self._description.search](seed)
        return self._choose(self._study.ask())

    def tell(
        self, number: int, value: float | None, *, state: Outcome = "complete", reason: str = ""
    ) -> bool:
        """Stores how a trial ended; a second time, nothing. Returns whether it was the first.

        A completed trial without a finite value is stored as failed.
        """
        trial = self._frozen(number)
        if trial.state.is_finished():
            return False
        if state == "complete" and (value is None or not math.isfinite(value)):
            state, reason = "failed", reason or f"its value is {value}"
        if reason:
            self._trial(trial).set_user_attr("reason", reason)
        self._study.tell(number, value if state == "complete" else None, state=_STATES[state])
        return True

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Stores a value on the way, epochs from 0; returns whether the trial should be pruned."""
        trial = self._frozen(number)
        if trial.state.is_finished() or not math.isfinite(value):
            return False
        live = self._trial(trial)
        if epoch not in trial.intermediate_values:
            live.report(value, epoch)
        return live.should_prune()

    def is_done(self) -> bool:
        """Says whether every trial of the study has ended."""
        return self._num_asked() >= self._description.trials and not self._in_work()

    def results(self) -> Results:
        trials = self._study.get_trials(deepcopy=False)
        count = {state: sum(t.state == state for t in trials) for state in TrialState}
        best = self._best() if count[TrialState.COMPLETE] else None
        return Results(
            completed=count[TrialState.COMPLETE],
            pruned=count[TrialState.PRUNED],
            failed=count[TrialState.FAIL],
            in_work=count[TrialState.RUNNING],
            best=best,
            at_edges=() if best is None else self._at_edges(best, trials),
        )

    def outcome(self, number: int) -> str:
        """Returns for people how a trial ended: its value, or why it has none."""
        trial = self._frozen(number)
        if trial.state == TrialState.COMPLETE:
            return f"{trial.value:.6g}"
        reason = trial.user_attrs.get("reason", "")
        return trial.state.name.lower() + (f": {reason}" if reason else "")

    def _best(self) -> BestTrial:
        best = self._study.best_trial
        assert best.value is not None
        seed = trial_seed(self._description.seed, best.number)
        return BestTrial(number=best.number, value=best.value, params=best.params, seed=seed)

    def _at_edges(self, best: BestTrial, trials: Sequence[FrozenTrial]) -> tuple[str, ...]:
        completed = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
        return tuple(at_edges(best.number, best.params, completed, self._description.space))

    def _num_asked(self) -> int:
        return len(self._study.get_trials(deepcopy=False))

    def _in_work(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, trial: FrozenTrial) -> optuna.trial.Trial:
        if trial.number not in self._live:
            self._live[trial.number] = optuna.trial.Trial(self._study, trial._trial_id)
        return self._live[trial.number]

    def _choose(self, trial: optuna.trial.Trial) -> Trial:
        """Draws what is not drawn yet: a process may have been killed between two draws."""
        self._live[trial.number] = trial
        params = {name: _suggest(trial, name, d) for name, d in self._description.space.items()}
        seed = trial_seed(self._description.seed, trial.number)
        return Trial(number=trial.number, seed=seed, params=params)


def _suggest(trial: optuna.trial.Trial, name: str, distribution: Distribution) -> Any:
    match distribution:
        case Uniform(low, high):
            return trial.suggest_float(name, low, high)
        case LogUniform(low, high):
            return trial.suggest_float(name, low, high, log=True)
        case Integer(low, high, log):
            return trial.suggest_int(name, low, high, log=log)
        case Choice(options):
            return trial.suggest_categorical(name, options)


def _pruner(description: StudyDescription) -> optuna.pruners.BasePruner:
    if description.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    return optuna.pruners.NopPruner()
