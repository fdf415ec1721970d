"""Who takes which hyperparameter: the optimizer by its known names, the model by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from hydro_hpc.errors import StudyError
from hydro_hpc.study.clipping import CLIPS
from hydro_hpc.study.optimizers import OptimizerName, takes

TRAINING: Final = frozenset({"batch_size", *CLIPS})
"""What the training loop itself takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The names of a study's hyperparameters, by who takes them."""

    optimizer: frozenset[str]
    training: frozenset[str]
    model: frozenset[str]


def split(names: Iterable[str], optimizer: OptimizerName, model: Callable[..., Any]) -> Split:
    """Sorts the names; the optimizer and the training come before the model.

    Raises StudyError on a name that nobody takes, and on an argument of the model that is missing.
    """
    of_optimizer = frozenset(names) & takes(optimizer)
    of_training = frozenset(names) & TRAINING
    of_model = frozenset(names) - of_optimizer - of_training
    known, needs = _arguments(model)
    if known is not None and not of_model <= known:
        unknown = sorted(of_model - known)[0]
        raise StudyError(
            f"hyperparameter {unknown!r} is taken by nobody: {optimizer} takes "
            f"{', '.join(sorted(takes(optimizer)))}, the training {', '.join(sorted(TRAINING))}, "
            f"and {_name(model)} {', '.join(sorted(known)) or 'no arguments'}"
        )
    if not needs <= of_model:
        missing = sorted(needs - of_model)[0]
        if missing in of_optimizer | of_training:
            taker = optimizer if missing in of_optimizer else "the training"
            raise StudyError(
                f"{_name(model)} needs {missing!r}, which {taker} takes; give the argument "
                "another name"
            )
        raise StudyError(
            f"{_name(model)} needs {missing!r}, which the space does not name; "
            "add it to the space (a plain value there is a constant)"
        )
    if "betas" in of_optimizer and of_optimizer & {"beta1", "beta2"}:
        raise StudyError("the space names both 'betas' and 'beta1' or 'beta2'; keep one form")
    return Split(optimizer=of_optimizer, training=of_training, model=of_model)


def _arguments(model: Callable[..., Any]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Returns the names that a factory takes (None: any) and those that it cannot do without."""
    known: set[str] = set()
    needs: set[str] = set()
    takes_any = False
    for parameter in inspect.signature(model).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            known.add(parameter.name)
            if parameter.default is parameter.empty:
                needs.add(parameter.name)
    return (None if takes_any else frozenset(known)), frozenset(needs)


def _name(model: Callable[..., Any]) -> str:
    return getattr(model, "__name__", type(model).__name__)
