"""How the check trains: the batch, the optimizer and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor, optim

from hydro_hpc.surrogate.coordinates.watching import Call
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.table import family_of

Ladder = Callable[[int], Surrogate]  # called with a width; draws from torch's global random state

OPTIMIZERS: Final[dict[str, type[optim.Optimizer]]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a model is called with, and the loss of what it returns."""

    call: Call
    loss: Callable[[Any], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. `lr` and `weight_decay` are the target's; `settings` are further arguments of
    torch's optimizer, such as momentum.
    """

    optimizer: str
    lr: float
    weight_decay: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 3


def groups_of(surrogate: Surrogate, recipe: Recipe) -> list[dict[str, Any]]:
    """ShrinkError if there is no rule for this optimizer."""
    family_of(recipe.optimizer)
    return surrogate.param_groups(recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay)


def make_optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> optim.Optimizer:
    return OPTIMIZERS[recipe.optimizer.lower()](groups, **recipe.settings)
