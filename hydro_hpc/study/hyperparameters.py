"""Who takes which hyperparameter: the optimizer by its known names, the model by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import optim

from hydro_hpc.errors import StudyError
from hydro_hpc.study.space import Params

OptimizerName = Literal["sgd", "adam", "adamw"]

OPTIMIZERS: Final[dict[OptimizerName, type[optim.Optimizer]]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
}
_ADAM: Final = frozenset({"lr", "betas", "beta1", "beta2", "eps", "weight_decay", "amsgrad"})
_TAKES: Final[dict[OptimizerName, frozenset[str]]] = {
    "sgd": frozenset({"lr", "momentum", "dampening", "weight_decay", "nesterov"}),
    "adam": _ADAM,
    "adamw": _ADAM,
}
_BETAS: Final = (0.9, 0.999)  # torch's defaults


def optimizer_name(optimizer: str | type[optim.Optimizer]) -> OptimizerName:
    """Returns the name of an optimizer given by name or by torch's class."""
    for name, cls in OPTIMIZERS.items():
        if optimizer is cls or (isinstance(optimizer, str) and optimizer.lower() == name):
            return name
    raise StudyError(
        f"optimizer {optimizer!r} is not known; use one of {', '.join(OPTIMIZERS)}, "
        "by name or as torch.optim's class"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The names of a study's hyperparameters, by who takes them."""

    optimizer: frozenset[str]
    model: frozenset[str]


def split(names: Iterable[str], optimizer: OptimizerName, model: Callable[..., Any]) -> Split:
    """Sorts the names; the optimizer comes first.

    Raises StudyError on a name that nobody takes, and on an argument of the model that is missing.
    """
    of_optimizer = frozenset(names) & _TAKES[optimizer]
    of_model = frozenset(names) - of_optimizer
    takes, needs = _arguments(model)
    if takes is not None and not of_model <= takes:
        unknown = sorted(of_model - takes)[0]
        raise StudyError(
            f"hyperparameter {unknown!r} is taken by nobody: {optimizer} takes "
            f"{', '.join(sorted(_TAKES[optimizer]))}, and {_name(model)} takes "
            f"{', '.join(sorted(takes)) or 'no arguments'}"
        )
    if not needs <= of_model:
        missing = sorted(needs - of_model)[0]
        raise StudyError(
            f"{_name(model)} needs {missing!r}, which the space does not name; "
            "add it to the space (a plain value there is a constant)"
        )
    if "betas" in of_optimizer and of_optimizer & {"beta1", "beta2"}:
        raise StudyError("the space names both 'betas' and 'beta1' or 'beta2'; keep one form")
    return Split(optimizer=of_optimizer, model=of_model)


def optimizer_settings(params: Mapping[str, Any], split: Split) -> Params:
    """Returns the optimizer's keyword arguments; beta1 and beta2 become betas."""
    settings = {name: params[name] for name in sorted(split.optimizer)}
    if split.optimizer & {"beta1", "beta2"}:
        betas = (settings.pop("beta1", _BETAS[0]), settings.pop("beta2", _BETAS[1]))
        settings["betas"] = betas
    return settings


def _arguments(model: Callable[..., Any]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Returns the names that a factory takes (None: any) and those that it cannot do without."""
    takes: set[str] = set()
    needs: set[str] = set()
    takes_any = False
    for parameter in inspect.signature(model).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            takes.add(parameter.name)
            if parameter.default is parameter.empty:
                needs.add(parameter.name)
    return (None if takes_any else frozenset(takes)), frozenset(needs)


def _name(model: Callable[..., Any]) -> str:
    return getattr(model, "__name__", type(model).__name__)
