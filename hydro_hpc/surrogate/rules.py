"""The rules of one surrogate as plain numbers by parameter name.

Nothing hangs on tensors, so that compiling, sharding and copying a model loses none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Factors, Family, factors, family_of

Rules = Mapping[str, Scaling]  # by a parameter's first name


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """What parameters of one group have in common."""

    lr: float
    weight_decay: float


def factors_of(scaling: Scaling, family: Family) -> Factors:
    return factors(scaling.kind, family, m_in=scaling.m_in, m_out=scaling.m_out)


def param_groups(
    model: nn.Module, rules: Rules, optimizer: str, *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """For an ordinary `torch.optim` optimizer of this name: trainable parameters whose settings are
    equal are one group. `lr` and `weight_decay` are the target's. ShrinkError if the optimizer has
    no rule, or the model is another than the rules were made for.
    """
    family = family_of(optimizer)
    groups: dict[GroupSettings, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name not in rules:
            raise ShrinkError(
                f"'{name}' is no parameter that the surrogate had when its rules were made; "
                "shrink the model as it is now"
            )
        if parameter.requires_grad:
            found = factors_of(rules[name], family)
            settings = GroupSettings(
                lr=lr * found.lr, weight_decay=weight_decay * found.weight_decay
            )
            groups.setdefault(settings, []).append(parameter)
    return [
        {"params": parameters, "lr": settings.lr, "weight_decay": settings.weight_decay}
        for settings, parameters in groups.items()
    ]
