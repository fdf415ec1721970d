"""`Surrogate`: a narrow model and how it is to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hydro_hpc.surrogate.report import Report
from hydro_hpc.surrogate.rules import Rules, param_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """`module` is to be trained in place of the target; `rules` say how, by parameter name.
    `initial` is by what the values were multiplied that the user's initialisation drew.
    """

    module: nn.Module
    rules: Rules
    initial: Mapping[str, float] = field(default_factory=dict)
    report: Report = field(default_factory=Report)

    def param_groups(
        self, optimizer: str, *, lr: float, weight_decay: float | None = None
    ) -> list[dict[str, Any]]:
        """For a torch optimizer of this name; `lr` and `weight_decay` are the target's, the decay
        torch's default if none is given.
        """
        return param_groups(self.module, self.rules, optimizer, lr=lr, weight_decay=weight_decay)
