from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

from hydro_hpc.errors import StudyError
from hydro_hpc.study import choice, integer, log_uniform, uniform
from hydro_hpc.study.optimizers import (
    OPTIMIZERS,
    check_bounds,
    optimizer_name,
    optimizer_settings,
    takes,
)

# How torch computes and what it is told to do, not with which numbers.
NOT_HYPERPARAMETERS = {
    "params",
    "maximize",
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "decoupled_weight_decay",
}


def test_beta1_alone_keeps_the_default_beta2() -> None:
    settings = optimizer_settings({"lr": 0.1, "beta1": 0.8, "width": 3}, ["lr", "beta1"])
    assert settings == {"lr": 0.1, "betas": (0.8, 0.999)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_known_names_are_torchs_own(name: Any) -> None:
    torchs = set(inspect.signature(OPTIMIZERS[name].TORCH).parameters)
    assert takes(name) - {"beta1", "beta2"} == torchs - NOT_HYPERPARAMETERS


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("AdamW", "adamw"),
        ("adamw", "adamw"),
        (torch.optim.AdamW, "adamw"),
        ("RMSprop", "rmsprop"),
        (torch.optim.RMSprop, "rmsprop"),
        (torch.optim.Adagrad, "adagrad"),
    ],
)
def test_an_optimizer_is_known_by_name_and_by_class(given: Any, name: str) -> None:
    assert optimizer_name(given) == name


def test_an_optimizer_object_is_refused_in_one_line() -> None:
    with pytest.raises(StudyError) as caught:
        optimizer_name(torch.optim.Adam([torch.zeros(1)]))  # type: ignore[arg-type]
    assert str(caught.value).startswith("optimizer is one Adam; give the class or its name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["lion", torch.optim.Adadelta])
def test_an_unknown_optimizer_is_refused_with_the_known_ones(given: Any) -> None:
    with pytest.raises(StudyError, match="use one of sgd, adam, adamw, rmsprop, adagrad"):
        optimizer_name(given)


@pytest.mark.parametrize(
    ("name", "space", "sentence"),
    [
        ("sgd", {"lr": uniform(-0.1, 1)}, "lr=-0.1 is in the space; sgd takes lr of at least 0"),
        ("adam", {"beta1": uniform(0.5, 1)}, "adam takes beta1 of at least 0 and below 1"),
        ("adamw", {"betas": (0.9, 1.5)}, "betas=1.5 is in the space"),
        ("rmsprop", {"alpha": choice(0.9, -0.5)}, "alpha=-0.5 is in the space"),
        ("rmsprop", {"momentum": integer(-1, 1)}, "momentum=-1 is in the space"),
        ("adagrad", {"lr_decay": -1e-3}, "lr_decay=-0.001 is in the space"),
        ("adagrad", {"eps": choice("small", "big")}, "eps='small' is no number"),
        ("adagrad", {"initial_accumulator_value": True}, "=True is no number"),
        ("rmsprop", {"centered": uniform(0, 1)}, "neither on nor off; use choice(True, False)"),
        ("sgd", {"nesterov": choice(True, 0.5)}, "neither on nor off"),
        ("adam", {"betas": (0.9, 0.99, 0.9)}, "betas=(0.9, 0.99, 0.9) is no pair of numbers"),
        ("adam", {"betas": (0.9,)}, "betas=(0.9,) is no pair of numbers, as (0.9, 0.999)"),
        ("adam", {"betas": choice(0.9, 0.8)}, "is no pair of numbers"),
        ("adam", {"lr": 10**5000}, "lr is an integer of 16610 bits; adam needs a smaller number"),
        ("sgd", {"dampening": math.nan}, "dampening=nan is no number; sgd needs one"),
    ],
)
def test_what_an_optimizer_does_not_take_is_one_sentence(
    name: Any, space: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StudyError) as caught:
        check_bounds(name, space)
    assert sentence in str(caught.value)


def test_what_an_optimizer_takes_is_let_through() -> None:
    check_bounds("adam", {"lr": log_uniform(1e-9, 10), "betas": (0.0, 0.999), "amsgrad": True})
    check_bounds("sgd", {"dampening": uniform(-1, 1), "nesterov": choice(True, False)})
    check_bounds("rmsprop", {"centered": False, "width": uniform(-5, 5)})
