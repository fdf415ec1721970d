"""Rates, weight decay, multipliers and initial spreads against microsoft/mup 1.0.0, its base being
the target. What differs on purpose is in test_oracle_differences.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mup
import pytest
from torch import Tensor, nn

from hydro_hpc.nn.multiplier import InputMultiplier
from tests.hydro_hpc.surrogate.oracle_models import (
    MODELS,
    Make,
    TiedLanguage,
    oracle,
    ours,
    values,
)

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": mup.MuSGD,
    "adam": mup.MuAdam,
    "adamw": mup.MuAdamW,
}
LR, DECAY = 0.3, 0.02
DRAWS = 6


def settings(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", MODELS)
def test_rates_and_weight_decay_are_those_of_mup(make: Make, name: str) -> None:
    right, surrogate = oracle(make, rescaled=False), ours(make)
    optimizer = OPTIMIZERS[name](right.parameters(), lr=LR, weight_decay=DECAY)
    expected = settings(right, optimizer.param_groups)
    found = settings(surrogate.module, surrogate.param_groups(name, lr=LR, weight_decay=DECAY))
    assert found.keys() == expected.keys()
    for path, of_mup in expected.items():
        assert found[path] == pytest.approx(of_mup, rel=1e-12), path


@pytest.mark.parametrize("make", MODELS)
def test_multipliers_are_those_of_mup(make: Make) -> None:
    right, module = oracle(make, rescaled=False), ours(make).module
    for path, one in right.named_modules():
        hooks = module.get_submodule(path)._forward_pre_hooks.values()
        found = [hook.factor for hook in hooks if isinstance(hook, InputMultiplier)]
        expected = [1 / one.width_mult()] if isinstance(one, mup.MuReadout) else []
        assert found == pytest.approx(expected, rel=1e-12), path


@pytest.mark.parametrize("make", MODELS)
def test_parameters_begin_as_far_spread_as_those_of_mup(make: Make) -> None:
    right = values(lambda: oracle(make, rescaled=True), DRAWS)
    found = values(lambda: ours(make).module, DRAWS)
    assert found.keys() == right.keys()
    for path in right.keys() - ({"tokens.weight"} if make is TiedLanguage else {}):
        expected, spread = float(right[path].std()), float(found[path].std())
        assert abs(spread - expected) <= 4 * noise(expected, right[path], found[path]), path


def noise(spread: float, *samples: Tensor) -> float:
    """Of the difference of two standard deviations; four of it are 5 % at least."""
    of_each = spread * math.sqrt(sum(0.5 / sample.numel() for sample in samples))
    return max(of_each, spread * 0.05 / 4)
