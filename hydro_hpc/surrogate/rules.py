"""The rules of one surrogate as plain numbers by parameter name.

Nothing hangs on tensors, so that compiling, sharding and copying a model loses none of it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

from torch import Tensor, nn, optim

from hydro_hpc.errors import ShrinkError
from hydro_hpc.nn.multiplier import input_multipliers as own_multipliers
from hydro_hpc.surrogate.kinds import Scaling, input_multipliers
from hydro_hpc.surrogate.table import Factors, Family, factors, family_of

Rules = Mapping[str, Scaling]  # by a parameter's first name
TORCHS: Final = (optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """By what a group's settings are multiplied, so that they can be given as the target's."""

    lr: float = 1.0
    weight_decay: float = 1.0

    def of(self, name: str) -> float:
        """Of a setting by its name in torch, or of what schedulers keep in a group, such as
        `initial_lr` and `max_lr`.
        """
        if name == "weight_decay":
            return self.weight_decay
        return self.lr if name == "lr" or name.endswith("_lr") else 1.0


def factors_of(scaling: Scaling, family: Family) -> Factors:
    return factors(scaling.kind, family, m_in=scaling.m_in, m_out=scaling.m_out)


def scales_of(names: Iterable[str], rules: Rules, optimizer: str) -> dict[str, Scale]:
    """Of each of a model's parameters by first name, under torch's optimizer of this name.

    ShrinkError if the optimizer has no rule, or the rules are of another model.
    """
    family = family_of(optimizer)
    if not isinstance(rules, Mapping):
        raise ShrinkError(
            f"rules= is of type {type(rules).__name__}; give the rules of a surrogate, by name"
        )
    present = list(names)
    for name in present:
        if name not in rules:
            raise ShrinkError(
                f"'{name}' is no parameter that the surrogate had when its rules were made; "
                "shrink the model as it is now"
            )
    if gone := sorted(rules.keys() - set(present)):
        raise ShrinkError(
            f"'{gone[0]}' has a rule and the model has no such parameter; give the rules of the "
            "surrogate that is trained"
        )
    found = {name: factors_of(rules[name], family) for name in present}
    return {name: Scale(lr=f.lr, weight_decay=f.weight_decay) for name, f in found.items()}


def refuse_unlike(model: nn.Module, rules: Rules) -> None:
    """ShrinkError if a layer does not have the multiplier of these rules: then they are of another
    width, or the model is narrow and no surrogate.
    """
    for path, expected, found in multipliers(model, rules):
        if not math.isclose(found, expected):
            raise ShrinkError(
                f"the input of '{path}' is multiplied by {found:.4g}, and by these rules it is "
                f"{expected:.4g}; give the rules of the surrogate that is trained"
            )


def multipliers(model: nn.Module, rules: Rules) -> Iterator[tuple[str, float, float]]:
    """(path, what its input is to be multiplied by, what it is multiplied by) of each module."""
    expected = input_multipliers(model, rules)
    for path, module in model.named_modules():
        yield path, expected.get(path, 1.0), math.prod(own_multipliers(module))


def by_scale(scales: Mapping[str, Scale]) -> dict[Scale, list[str]]:
    """The names that have one scale each, in order of their first: what parameter groups are."""
    groups: dict[Scale, list[str]] = {}
    for name, scale in scales.items():
        groups.setdefault(scale, []).append(name)
    return groups


def param_groups(
    model: nn.Module, rules: Rules, optimizer: str, *, lr: float, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """For an ordinary `torch.optim` optimizer of this name: parameters, frozen ones too, whose
    factors are equal are one group. `lr` and `weight_decay` are the target's; None is what torch's
    optimizer takes where it is not given: 0.01 for AdamW. ShrinkError if there is no rule.
    """
    _check_number("lr", lr)
    if weight_decay is not None:
        _check_number("weight_decay", weight_decay)
    parameters = dict(model.named_parameters())
    decay = default_decay(optimizer) if weight_decay is None else weight_decay
    return [
        {
            "params": [parameters[name] for name in names],
            "lr": lr * scale.lr,
            "weight_decay": decay * scale.weight_decay,
        }
        for scale, names in by_scale(scales_of(parameters, rules, optimizer)).items()
    ]


def default_decay(optimizer: str) -> float:
    """Torch's own, of its optimizer of this name. ShrinkError if there is no rule for that."""
    family_of(optimizer)
    [torchs] = [each for each in TORCHS if each.__name__.lower() == optimizer.lower()]
    return float(inspect.signature(torchs).parameters["weight_decay"].default)


def _check_number(name: str, value: Any) -> None:
    is_number = isinstance(value, Real | Tensor) and not isinstance(value, bool)
    if not is_number or not 0 <= float(value) < math.inf:
        raise ShrinkError(f"{name}={value!r} is no number of 0 or more; give the target's {name}")
