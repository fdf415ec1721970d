from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.errors import StudyError
from hydro_hpc.study.hyperparameters import (
    _TAKES,
    OPTIMIZERS,
    optimizer_name,
    optimizer_settings,
    split,
)


def model(width: int, depth: int = 2) -> nn.Module:
    return nn.Linear(width, depth)


def flexible(**sizes: int) -> nn.Module:
    return nn.Linear(sizes["a"], 1)


def test_every_name_goes_to_the_optimizer_or_to_the_model() -> None:
    found = split(["lr", "momentum", "width"], "sgd", model)
    assert found.optimizer == {"lr", "momentum"}
    assert found.model == {"width"}


def test_a_model_with_keyword_arguments_takes_any_name() -> None:
    assert split(["lr", "a", "b"], "adam", flexible).model == {"a", "b"}


def test_a_name_that_nobody_takes_is_refused_by_name() -> None:
    with pytest.raises(StudyError, match=r"'momentum' is taken by nobody: adam takes .*beta1.*"):
        split(["lr", "momentum", "width"], "adam", model)


def test_an_argument_that_the_model_lacks_is_refused_by_name() -> None:
    with pytest.raises(StudyError, match="model needs 'width', which the space does not name"):
        split(["lr"], "adam", model)


def test_both_forms_of_betas_are_refused() -> None:
    with pytest.raises(StudyError, match="keep one form"):
        split(["betas", "beta1", "width"], "adam", model)


def test_beta1_alone_keeps_the_default_beta2() -> None:
    found = split(["lr", "beta1", "width"], "adamw", model)
    settings = optimizer_settings({"lr": 0.1, "beta1": 0.8, "width": 3}, found)
    assert settings == {"lr": 0.1, "betas": (0.8, 0.999)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_known_names_are_torchs_own(name: Any) -> None:
    torchs = set(inspect.signature(OPTIMIZERS[name]).parameters)
    assert _TAKES[name] - {"beta1", "beta2"} <= torchs


@pytest.mark.parametrize("given", ["AdamW", "adamw", torch.optim.AdamW])
def test_an_optimizer_is_known_by_name_and_by_class(given: Any) -> None:
    assert optimizer_name(given) == "adamw"


@pytest.mark.parametrize("given", ["lion", torch.optim.RMSprop])
def test_an_unknown_optimizer_is_refused_with_the_known_ones(given: Any) -> None:
    with pytest.raises(StudyError, match="use one of sgd, adam, adamw"):
        optimizer_name(given)
