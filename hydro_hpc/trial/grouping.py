"""Which trials can be trained side by side: those whose models and whose batches have one shape."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from hydro_hpc.fusion import signature
from hydro_hpc.study.definition import Study
from hydro_hpc.study.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What all trials of a bundle have in common."""

    batch_size: int
    shape: str  # of the model: a digest of what `fusion.signature` compares, and of rules


class Grouping:
    """Says to which group a trial belongs."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._names = sorted(study.split.model & study.searched.keys())
        self._shapes: dict[Hashable, str] = {}  # by what a model is made from

    def knows(self, trial: Trial) -> bool:
        """Says whether a model of the same hyperparameters has been built already."""
        return self._key(trial) in self._shapes

    def of(self, trial: Trial) -> Group:
        """Returns a trial's group, from a model that was built before if there is one."""
        return self._group(trial) if self.knows(trial) else self.build(trial)

    def build(self, trial: Trial) -> Group:
        """Returns the same, and raises what the trial's model or optimizer raises when made."""
        model = self._study.build_model(trial.params, trial.seed)
        self._study.check_settings(trial.params)
        facts = signature.facts(model), self._study.rules_of(trial.params)
        self._shapes[self._key(trial)] = hashlib.sha256(repr(facts).encode()).hexdigest()
        return self._group(trial)

    def _group(self, trial: Trial) -> Group:
        size = self._study.batch_size_of(trial.params)
        return Group(batch_size=size, shape=self._shapes[self._key(trial)])

    def _key(self, trial: Trial) -> Hashable:
        return tuple([trial.params[name] for name in self._names])


def largest(trials: Sequence[Trial], group_of: Callable[[Trial], Group]) -> list[Trial]:
    """Returns the trials of the group that has most of them; of equal ones, the first's."""
    counts = Counter(group_of(trial) for trial in trials)
    if not counts:
        return []
    [(most, _)] = counts.most_common(1)
    return [trial for trial in trials if group_of(trial) == most]
