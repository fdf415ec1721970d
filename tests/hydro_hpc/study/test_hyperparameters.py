from __future__ import annotations

import pytest
from torch import nn

from hydro_hpc.errors import StudyError
from hydro_hpc.study.hyperparameters import split


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


def test_batch_size_is_the_trainings() -> None:
    found = split(["lr", "batch_size", "width"], "sgd", model)
    assert (found.training, found.model) == ({"batch_size"}, {"width"})


def needs_rate(lr: float) -> nn.Module:
    return nn.Linear(int(lr), 1)


def needs_rows(batch_size: int) -> nn.Module:
    return nn.Linear(batch_size, 1)


def test_an_argument_that_never_reaches_the_model_is_refused() -> None:
    with pytest.raises(StudyError, match="needs 'lr', which sgd takes"):
        split(["lr"], "sgd", needs_rate)
    with pytest.raises(StudyError, match="needs 'batch_size', which the training takes"):
        split(["batch_size"], "sgd", needs_rows)
