"""Structural checks: they pass for right surrogates and name what is wrong of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.structure import Finding, findings, own_width_findings
from hydro_hpc.surrogate.table import Kind
from tests.hydro_hpc.surrogate.oracle_models import (
    MODELS,
    NARROW,
    TARGET,
    Make,
    Perceptron,
    TiedLanguage,
    factory,
    ours,
)

LR, DECAY = 0.3, 0.02


def groups_of(surrogate: Surrogate, optimizer: str = "adamw") -> list[dict[str, Any]]:
    return surrogate.param_groups(optimizer, lr=LR, weight_decay=DECAY)


def checked(
    surrogate: Surrogate, groups: list[dict[str, Any]], optimizer: str = "adamw"
) -> tuple[Finding, ...]:
    target = factory(Perceptron)()
    return findings(target, surrogate, optimizer, groups, lr=LR, weight_decay=DECAY)


def told(found: tuple[Finding, ...]) -> set[tuple[str, str]]:
    return {(finding.path, finding.what) for finding in found}


@pytest.mark.parametrize("make", MODELS)
def test_right_surrogates_have_no_findings(make: Make) -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        target, surrogate = factory(make)(), ours(make)
        for optimizer in ("sgd", "adam", "adamw"):
            groups = groups_of(surrogate, optimizer)
            assert not findings(target, surrogate, optimizer, groups, lr=LR, weight_decay=DECAY)


def test_a_rate_for_all_is_found_by_parameter() -> None:
    surrogate = ours(Perceptron)
    groups = [{"params": [*surrogate.module.parameters()], "lr": LR, "weight_decay": DECAY}]
    assert told(checked(surrogate, groups)) == {
        (f"{layer}.weight", what)
        for layer in ("hidden", "back")
        for what in ("learning rate", "weight decay")
    }


def test_a_parameter_that_is_not_trained_is_found() -> None:
    surrogate = ours(Perceptron)
    groups = groups_of(surrogate)
    for group in groups:
        group["params"] = [p for p in group["params"] if p is not surrogate.module.out.bias]
    [one, other] = checked(surrogate, groups)
    assert (one.path, one.what, one.expected) == ("out.bias", "learning rate", LR)
    assert one.found != one.found
    assert (other.path, other.what) == ("out.bias", "weight decay")


def test_a_missing_and_a_doubled_multiplier_are_found() -> None:
    surrogate = ours(Perceptron)
    hooks = surrogate.module.get_submodule("out")._forward_pre_hooks
    [hook] = hooks.values()
    found = Finding(path="out", what="forward multiplier", expected=4.0, found=16.0)
    surrogate.module.get_submodule("out").register_forward_pre_hook(hook, with_kwargs=True)
    assert checked(surrogate, groups_of(surrogate)) == (found,)
    hooks.clear()
    assert checked(surrogate, groups_of(surrogate)) == (replace(found, found=1.0),)


def test_an_initial_spread_that_was_not_scaled_is_found() -> None:
    surrogate = ours(Perceptron)
    with torch.no_grad():
        surrogate.module.get_parameter("back.weight").mul_(0.5)
        surrogate.module.get_parameter("norm.weight").fill_(2.0)
        surrogate.module.get_parameter("hidden.weight").zero_()
    expected = {(f"{layer}.weight", "initial spread") for layer in ("back", "norm", "hidden")}
    assert told(checked(surrogate, groups_of(surrogate))) == expected


def test_rules_of_the_wrong_fan_axis_are_found() -> None:
    right = ours(Perceptron)
    rule = right.rules["hidden.weight"]
    rules = {**right.rules, "hidden.weight": replace(rule, m_in=rule.m_out, m_out=rule.m_in)}
    wrong = Surrogate(module=right.module, rules=rules)
    for optimizer in ("sgd", "adam"):
        found = told(checked(wrong, groups_of(wrong, optimizer), optimizer))
        assert found == {("hidden.weight", "learning rate"), ("hidden.weight", "weight decay")}


def test_rules_of_the_wrong_kind_are_found() -> None:
    right = ours(Perceptron)
    rules = {**right.rules, "out.weight": replace(right.rules["out.weight"], kind=Kind.VECTOR)}
    wrong = Surrogate(module=right.module, rules=rules)
    assert ("out.weight", "learning rate") in told(checked(wrong, groups_of(wrong, "sgd"), "sgd"))


def surrogate_of_own_width(make: Callable[..., nn.Module]) -> tuple[nn.Module, Surrogate]:
    torch.manual_seed(3)
    target = make()
    torch.manual_seed(3)
    return target, shrink(make, width=TARGET)


@pytest.mark.parametrize("make", MODELS)
def test_at_the_targets_width_a_surrogate_is_the_target(make: Make) -> None:
    target, surrogate = surrogate_of_own_width(factory(make))
    assert not own_width_findings(target, surrogate)


def plain(width: int = TARGET) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


def test_at_the_targets_width_a_changed_value_or_forward_is_found() -> None:
    target, surrogate = surrogate_of_own_width(plain)
    inputs = (torch.randn(5, 4),)
    assert not own_width_findings(target, surrogate, inputs)
    assert target.training
    handle = surrogate.module.register_forward_hook(lambda *args: args[2] + 1e-3)
    assert told(own_width_findings(target, surrogate, inputs)) == {("output 0", "value")}
    handle.remove()
    with torch.no_grad():
        surrogate.module.get_buffer("1.running_mean")[7] = torch.nan
        surrogate.module.get_parameter("2.bias")[1] += 1e-3
    expected = {("1.running_mean", "value"), ("2.bias", "value"), ("output 0", "value")}
    assert told(own_width_findings(target, surrogate, inputs)) == expected


def test_another_width_is_no_target_bit_by_bit() -> None:
    found = own_width_findings(factory(TiedLanguage)(), ours(TiedLanguage))
    assert ("tokens.weight", "value") in told(found)
    assert NARROW != TARGET
