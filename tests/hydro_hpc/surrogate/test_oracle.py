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
from hydro_hpc.surrogate import Surrogate, shrink
from tests.hydro_hpc.surrogate.oracle_models import (
    MODELS,
    NARROW,
    TARGET,
    Make,
    TiedLanguage,
    oracle,
    ours,
    values,
)
from tests.hydro_hpc.surrogate.written_models import WRITTEN

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


def followed(name: str) -> Surrogate:
    make, example = WRITTEN[name]
    return shrink(make(TARGET, nn.Linear), by=TARGET / NARROW, example=example)


@pytest.mark.parametrize("way", ["function", "model"])
@pytest.mark.parametrize("name", WRITTEN)
def test_models_as_others_write_them_are_as_mup_has_them(name: str, way: str) -> None:
    make = WRITTEN[name][0]
    surrogate = followed(name) if way == "model" else ours(make)
    right = oracle(make, rescaled=False)
    for optimizer in OPTIMIZERS:
        check_settings(right, surrogate, optimizer)
    check_multipliers(right, surrogate.module)
    check_spreads(values(lambda: oracle(make, rescaled=True), 1), surrogate.module)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", MODELS)
def test_rates_and_weight_decay_are_those_of_mup(make: Make, name: str) -> None:
    check_settings(oracle(make, rescaled=False), ours(make), name)


def check_settings(right: nn.Module, surrogate: Surrogate, name: str) -> None:
    optimizer = OPTIMIZERS[name](right.parameters(), lr=LR, weight_decay=DECAY)
    expected = settings(right, optimizer.param_groups)
    found = settings(surrogate.module, surrogate.param_groups(name, lr=LR, weight_decay=DECAY))
    assert found.keys() == expected.keys()
    for path, of_mup in expected.items():
        assert found[path] == pytest.approx(of_mup, rel=1e-12), path


@pytest.mark.parametrize("make", MODELS)
def test_multipliers_are_those_of_mup(make: Make) -> None:
    check_multipliers(oracle(make, rescaled=False), ours(make).module)


def check_multipliers(right: nn.Module, module: nn.Module) -> None:
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


def check_spreads(right: dict[str, Tensor], module: nn.Module) -> None:
    for path, parameter in module.named_parameters():
        expected, spread = float(right[path].std()), float(parameter.detach().std())
        assert abs(spread - expected) <= 4 * noise(expected, right[path], parameter), path


def noise(spread: float, *samples: Tensor) -> float:
    """Of the difference of two standard deviations; four of it are 5 % at least."""
    of_each = spread * math.sqrt(sum(0.5 / sample.numel() for sample in samples))
    return max(of_each, spread * 0.05 / 4)
