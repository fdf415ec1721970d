"""Parameter groups by name: other settings for some of the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydro_hpc.fusion.state import StackedState


@dataclass(frozen=True, slots=True, init=False)
class ParameterGroup:
    """Parameters of the model by name, with settings of their own, each one value or one per slot:
    `ParameterGroup(names=["head.bias"], weight_decay=0.0)`. The rest is set as the optimizer is.
    """

    names: tuple[str, ...]
    settings: Mapping[str, Any]

    def __init__(self, *, names: Iterable[str], **settings: Any) -> None:
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "settings", settings)


def partition(state: StackedState, groups: Sequence[ParameterGroup]) -> list[ParameterGroup]:
    """Groups that have every parameter of the model once, frozen ones too, under its first name:
    those given, and before them one of all parameters that are in none, if there are any.

    ValueError if a name is no parameter's, or a parameter is named twice.
    """
    every = [name for name, _ in state.slot_models[0].named_parameters()]
    given = [
        ParameterGroup(names=[_first_name(state, n, every) for n in g.names], **g.settings)
        for g in groups
    ]
    taken = [name for group in given for name in group.names]
    if twice := sorted({name for name in taken if taken.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: named twice in groups; a parameter is in one group")
    rest = [name for name in every if name not in taken]
    return [ParameterGroup(names=rest), *given] if rest else given


def _first_name(state: StackedState, name: str, every: Sequence[str]) -> str:
    first = state.owner.get(name)
    if first is None or first not in every:
        raise ValueError(f"'{name}' in a group is no parameter; there are {', '.join(every)}")
    return first
