"""Which optimizers a study can name, and what each takes: read off `hydro_hpc.optim`, whose classes
equal torch's and know them.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import nn

from hydro_hpc import optim
from hydro_hpc.errors import StudyError
from hydro_hpc.fusion import Bundle
from hydro_hpc.study.space import (
    Choice,
    Integer,
    LogUniform,
    Params,
    Uniform,
    extremes,
    is_too_large,
    shortly,
)
from hydro_hpc.surrogate.rules import Rules, param_groups

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]

OPTIMIZERS: Final[dict[OptimizerName, type[optim.SlotOptimizer]]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
}
_NOT_SEARCHED: Final = frozenset({"self", "bundle", "groups", "rules", "maximize"})
_BETAS: Final = (0.9, 0.999)  # torch's defaults


def optimizer_name(optimizer: str | type[torch.optim.Optimizer]) -> OptimizerName:
    """Returns the name of an optimizer given by name or by torch's class."""
    for name, cls in OPTIMIZERS.items():
        if optimizer is cls.TORCH or (isinstance(optimizer, str) and optimizer.lower() == name):
            return name
    if isinstance(optimizer, torch.optim.Optimizer):
        raise StudyError(
            f"optimizer is one {type(optimizer).__name__}; give the class or its name, "
            "so that every trial gets its own"
        )
    raise StudyError(
        f"optimizer {shortly(optimizer)} is not known; use one of {', '.join(OPTIMIZERS)}, "
        "by name or as torch.optim's class"
    )


def takes(optimizer: OptimizerName) -> frozenset[str]:
    """Returns the names of its hyperparameters: torch's, and `beta1` and `beta2` for `betas`."""
    known = frozenset(inspect.signature(OPTIMIZERS[optimizer].__init__).parameters) - _NOT_SEARCHED
    return known | {"beta1", "beta2"} if "betas" in known else known


def optimizer_settings(params: Mapping[str, Any], names: Iterable[str]) -> Params:
    """Returns the optimizer's keyword arguments; beta1 and beta2 become betas."""
    settings = {name: params[name] for name in sorted(names)}
    if settings.keys() & {"beta1", "beta2"}:
        betas = (settings.pop("beta1", _BETAS[0]), settings.pop("beta2", _BETAS[1]))
        settings["betas"] = betas
    return settings


def trained(
    optimizer: OptimizerName, model: nn.Module, settings: Params, rules: Rules | None
) -> Iterable[Any]:
    """Returns what torch's optimizer is given to train: a model's parameters, by these rules in
    groups.
    """
    if rules is None:
        return model.parameters()
    lr = settings.get("lr", inspect.signature(OPTIMIZERS[optimizer].TORCH).parameters["lr"].default)
    decay = settings.get("weight_decay")
    return param_groups(model, rules, optimizer, lr=lr, weight_decay=decay)


def torch_optimizer(
    optimizer: OptimizerName, parameters: Iterable[Any], settings: Params
) -> torch.optim.Optimizer:
    """Returns torch's own. Raises what torch raises if the settings cannot be."""
    make: Callable[..., torch.optim.Optimizer] = OPTIMIZERS[optimizer].TORCH
    return make(parameters, **settings)


def slot_optimizer(
    optimizer: OptimizerName, bundle: Bundle, settings: Sequence[Params], rules: Rules | None = None
) -> optim.SlotOptimizer:
    """Returns a bundle's, with the settings of each slot; `rules` are of all slots' surrogates."""
    make: Callable[..., optim.SlotOptimizer] = OPTIMIZERS[optimizer]
    per_slot = {name: [each[name] for each in settings] for name in settings[0]}
    return make(bundle, rules=rules, **per_slot)


def check_bounds(optimizer: OptimizerName, space: Mapping[str, Any]) -> None:
    """StudyError if the space holds a value that the optimizer does not take."""
    cls = OPTIMIZERS[optimizer]
    ranges = dict(cls.RANGES)
    if "beta1" in ranges and not isinstance(space.get("betas", _BETAS), Choice):
        ranges["betas"] = ranges["beta1"]
    for name in sorted(takes(optimizer) & space.keys()):
        if name in cls.FLAGS:
            _check_flag(name, space[name])
            continue
        if name == "betas":
            _check_pair(space[name])
        low, high = ranges.get(name, (-math.inf, math.inf))
        for value in _numbers(space[name]):
            if is_too_large(value):
                raise StudyError(f"{name} is {shortly(value)}; {optimizer} needs a smaller number")
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value:
                raise StudyError(f"{name}={shortly(value)} is no number; {optimizer} needs one")
            if not low <= float(value) < high:
                limits = f"at least {low:g}" + ("" if high == math.inf else f" and below {high:g}")
                raise StudyError(
                    f"{name}={float(value):g} is in the space; {optimizer} takes {name} of {limits}"
                )


def _check_pair(given: Any) -> None:
    if not isinstance(given, tuple | list) or len(given) != len(_BETAS):
        raise StudyError(
            f"betas={shortly(given)} is no pair of numbers, as (0.9, 0.999); "
            "name 'beta1' and 'beta2' to search for them"
        )


def _check_flag(name: str, given: Any) -> None:
    is_drawn = isinstance(given, Uniform | LogUniform | Integer)
    if is_drawn or not all(isinstance(value, bool) for value in extremes(given)):
        raise StudyError(f"{name}={given!r} is neither on nor off; use choice(True, False)")


def _numbers(given: Any) -> Sequence[Any]:
    """The same as `extremes`, and both of a constant pair of betas."""
    return given if isinstance(given, tuple | list) else extremes(given)
