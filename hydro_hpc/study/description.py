"""A study without its code: what the search's process, which has no torch, gets as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from hydro_hpc.study.space import Space, distribution_from_json, distribution_to_json

Direction = Literal["maximize", "minimize"]
SearchName = Literal["tpe", "random"]
PrunerName = Literal["none", "median"]

_MAY_CHANGE: Final = frozenset({"trials", "search", "pruner"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyDescription:
    """What the search needs to know, and what makes two studies' values comparable.

    `settings` are the facts that a value depends on beside the searched hyperparameters: epochs,
    batch size, optimizer, and the constants of the space, as texts.
    """

    name: str
    space: Space
    direction: Direction
    search: SearchName
    pruner: PrunerName
    trials: int
    seed: int
    settings: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(self._as_dict(), indent=1)

    @staticmethod
    def from_json(text: str) -> StudyDescription:
        data = json.loads(text)
        space = {name: distribution_from_json(item) for name, item in data.pop("space").items()}
        return StudyDescription(space=space, **data)

    def differences(self, other: StudyDescription) -> list[str]:
        """Returns the names of what makes results of the two not comparable, of settings their own.

        The number of trials, the search and the pruner may change between two runs of one study.
        """
        mine, theirs = self._as_dict(), other._as_dict()
        keys = [key for key in mine if key not in _MAY_CHANGE and mine[key] != theirs[key]]
        both = {**self.settings, **other.settings}
        settings = [n for n in both if self.settings.get(n) != other.settings.get(n)]
        named = {"settings": f"settings ({', '.join(settings)})"}
        return [named.get(key, key) for key in keys]

    @property
    def identity(self) -> str:
        """A short text, the same for descriptions without `differences`, and for no others."""
        kept = {key: value for key, value in self._as_dict().items() if key not in _MAY_CHANGE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]

    def _as_dict(self) -> dict[str, Any]:
        data = {**asdict(self), "space": {}}
        for name, distribution in self.space.items():
            data["space"][name] = distribution_to_json(distribution)
        # Through JSON once, so that a tuple equals the list that it becomes.
        return dict(json.loads(json.dumps(data)))
