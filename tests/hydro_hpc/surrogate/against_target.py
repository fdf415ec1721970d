"""What narrow models are against their targets: spreads of parameters, multipliers, rules."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor, nn

from hydro_hpc.nn.multiplier import InputMultiplier
from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind
from tests.hydro_hpc.surrogate.oracle_models import values

TARGET, NARROW = 64, 16
M = NARROW / TARGET
INPUT, VECTOR = Scaling(kind=Kind.INPUT, m_out=M), Scaling(kind=Kind.VECTOR, m_out=M)
HIDDEN = Scaling(kind=Kind.HIDDEN, m_in=M, m_out=M)
OUTPUT, FIXED = Scaling(kind=Kind.OUTPUT, m_in=M), Scaling(kind=Kind.FIXED)
Factory = Callable[..., nn.Module]


def multipliers(surrogate: Surrogate) -> dict[str, float]:
    return {
        path: hook.factor
        for path, module in surrogate.module.named_modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, InputMultiplier)
    }


def change(factory: Factory, name: str, draws: int = 20) -> float:
    """The spread of a parameter in surrogates over that in targets."""
    narrow, target = drawn(factory, draws)
    return root_mean_square(narrow[name]) / root_mean_square(target[name])


@functools.cache
def drawn(factory: Factory, draws: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of surrogates and of targets, drawn once for all parameters."""
    return values(lambda: shrink(factory, width=NARROW).module, draws), values(factory, draws)


def root_mean_square(sample: Tensor) -> float:
    return float(sample.double().square().mean().sqrt())
