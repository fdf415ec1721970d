from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import Study
from hydro_hpc.errors import StudyError
from hydro_hpc.study.space import choice, log_uniform, uniform
from hydro_hpc.study.trial import TrialFailedError

PARAMS = {"lr": 0.01, "width": 8}
SPACE = {"lr": log_uniform(1e-3, 1e-1), "width": 8}


MakeStudy = Callable[..., Study]


def rows(train_x: int, train_y: int, test_x: int = 20, test_y: int = 20) -> tuple[Tensor, ...]:
    sizes = ((train_x, 4), (train_y,), (test_x, 4), (test_y,))
    return tuple(torch.zeros(s, dtype=torch.long if len(s) == 1 else None) for s in sizes)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_weights_are_a_function_of_the_seed_and_leave_the_global_stream_alone(
    small_study: MakeStudy,
) -> None:
    study = small_study()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = weights(study.build_model(PARAMS, 7))
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(weights(study.build_model(PARAMS, 7)), first)
    assert not torch.equal(weights(study.build_model(PARAMS, 8)), first)


def test_every_epoch_is_another_order_of_the_rows_in_full_batches(small_study: MakeStudy) -> None:
    study = small_study()
    epoch_0, epoch_1 = study.batch_indices(PARAMS, 5, 0), study.batch_indices(PARAMS, 5, 1)
    assert epoch_0.shape == (70 // 16, 16)
    assert len(epoch_0.unique()) == epoch_0.numel()
    assert torch.equal(study.batch_indices(PARAMS, 5, 0), epoch_0)
    assert not torch.equal(epoch_0, epoch_1)
    assert not torch.equal(study.batch_indices(PARAMS, 6, 0), epoch_0)


def test_a_trial_run_twice_gives_the_same_value_whatever_runs_between(
    small_study: MakeStudy,
) -> None:
    study = small_study(metrics="loss")
    first = study.run_alone(PARAMS, 11)
    study.run_alone({"lr": 0.1, "width": 4}, 12)
    torch.rand(9)
    assert study.run_alone(PARAMS, 11) == first
    assert study.run_alone(PARAMS, 12) != first


def test_run_alone_is_the_ordinary_training_loop(small_study: MakeStudy) -> None:
    study = small_study(model=nn.Linear, space={
        "lr": log_uniform(1e-3, 1e-1), "in_features": 4, "out_features": 2,
    }, metrics="loss", optimizer="sgd")  # fmt: skip
    data = study.data()
    model = study.build_model({"lr": 0.05}, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(2):
        for rows in study.batch_indices({}, 3, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows]).backward()
            optimizer.step()
    expected = nn.functional.cross_entropy(model(data.test_x), data.test_y).item()
    assert study.run_alone({"lr": 0.05}, 3) == expected


def test_training_learns(small_study: MakeStudy) -> None:
    assert small_study(epochs=20).run_alone(PARAMS, 0) >= 0.9


def test_a_loss_that_is_not_finite_fails_the_trial_with_a_reason(small_study: MakeStudy) -> None:
    study = small_study(optimizer="sgd", loss=lambda outputs, _: (outputs**2).sum() * 1e30)
    with pytest.raises(TrialFailedError, match="its loss was not finite in epoch 0"):
        study.run_alone({"lr": 0.1, "width": 8}, 0)


def test_losses_that_are_finite_in_their_own_precision_fail_nothing(small_study: MakeStudy) -> None:
    """Neither one beyond single precision nor a sum beyond double."""

    def huge(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets).double() * 0 + 1e308

    value = small_study(optimizer="sgd", loss=huge).run_alone({"lr": 0.1, "width": 8}, 0)
    assert 0 <= value <= 1


def test_evaluation_is_in_evaluation_mode_and_gives_the_mode_back(small_study: MakeStudy) -> None:
    study = small_study()
    model = study.build_model(PARAMS, 0)
    first = study.evaluate(model, study.data(), seed=1, step=2)
    assert study.evaluate(model, study.data(), seed=1, step=2) == first
    assert model.training


def test_the_direction_follows_the_metric_unless_it_is_given(small_study: MakeStudy) -> None:
    assert small_study().direction == "maximize"
    assert small_study(metrics="loss").direction == "minimize"
    assert small_study(metrics=lambda o, _: o.mean(), direction="minimize").direction == "minimize"


def test_arrays_are_taken_as_tensors(small_study: MakeStudy) -> None:
    rows = numpy.zeros((20, 4), dtype=numpy.float32), numpy.zeros(20, dtype=numpy.int64)
    assert small_study(data=lambda: (*rows, *rows)).data().train_x.shape == (20, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {}}, "the space is empty"),
        ({"space": {"lr": 0.1}}, "the space is empty"),
        ({"space": [1]}, "space is a list"),
        ({"space": {"lr": log_uniform(0.1, 1), "dropuot": 0.1}}, "'dropuot' is taken by nobody"),
        ({"optimizer": "lion"}, "use one of sgd, adam, adamw, rmsprop, adagrad"),
        ({"optimizer": "sgd", "space": {"lr": uniform(-1, 1), "width": 4}}, "sgd takes lr of at"),
        ({"space": SPACE | {"batch_size": 16}}, "batch_size is given twice"),
        ({"batch_size": None, "space": SPACE | {"batch_size": choice(8, 0)}}, "batch_size=0 must"),
        (
            {"batch_size": None, "space": SPACE | {"batch_size": uniform(8, 9)}},
            "must be an integer",
        ),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"space": SPACE | {"clip_norm": 1, "clip_value": 1}}, "keep one"),
        ({"space": SPACE | {"clip_norm": uniform(0, 1)}}, "clip_norm=0 is in the space; it must"),
        ({"space": SPACE | {"clip_value": choice(1, "no")}}, "clip_value='no' is in the space"),
        ({"space": SPACE | {"clip_norm": 10**5000}}, "clip_norm is an integer of 16610 bits"),
        ({"augment": 3}, "augment is a int; give a class or a function"),
        ({"trials": 0}, "trials=0 must be an integer of at least 1"),
        ({"epochs": 1.5}, "epochs=1.5 must be an integer"),
        ({"slots": -1}, "slots=-1 must be an integer"),
        ({"name": "../x"}, "cannot name a folder"),
        ({"loss": nn.CrossEntropyLoss}, "give an object: CrossEntropyLoss()"),
        ({"model": nn.Linear(4, 2)}, "model is one Linear; give the class"),
        ({"data": (1, 2)}, "data is a tuple; give a class or a function"),
        ({"metrics": "f1"}, "metrics='f1' is not known"),
        ({"search": "grid"}, "search='grid' is not known"),
        ({"direction": "up"}, "direction='up' is not known"),
    ],
)
def test_a_bad_definition_is_one_sentence(
    small_study: MakeStudy, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(StudyError) as caught:
        small_study(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def broken_model(width: int) -> nn.Module:
    raise RuntimeError(f"no {width}\nhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": lambda: rows(20, 19)}, "train_x has 20 rows, train_y has 19"),
        ({"data": lambda: rows(20, 20, 5, 6)}, "test_x has 5 rows, test_y has 6"),
        ({"data": lambda: rows(0, 0)}, "train_x is empty"),
        ({"data": lambda: rows(20, 20, 0, 0)}, "test_x is empty"),
        ({"data": lambda: rows(15, 15)}, "fewer than a batch of 16; lower batch_size"),
        (
            {
                "data": lambda: rows(20, 20),
                "batch_size": None,
                "space": SPACE | {"batch_size": choice(4, 32)},
            },
            "fewer than a batch of 32; lower batch_size",
        ),
        ({"data": lambda: rows(20, 20)[:3]}, "returned 3 values; return (train_x, train_y,"),
        ({"data": lambda: None}, "returned NoneType; return (train_x,"),
        ({"data": lambda: ("a", *rows(20, 20)[1:])}, "train_x is of type str"),
        ({"data": lambda: 1 / 0}, "raised ZeroDivisionError: division by zero"),
        ({"model": broken_model}, "the model raised RuntimeError with {'lr': 0.01"),
        ({"model": lambda width: width}, "the model is a int, not an nn.Module"),
        ({"model": lambda width: nn.Linear(5, width)}, "the model's forward raised RuntimeError"),
        (
            {"loss": nn.CrossEntropyLoss(reduction="none")},
            "a tensor of shape (16,); return a scalar",
        ),
        ({"loss": lambda *_: 1.0}, "the loss returned a float; return a scalar tensor"),
        ({"loss": lambda *_: torch.zeros(())}, "does not depend on the model's parameters"),
        ({"metrics": lambda *_: "good"}, "the metric raised ValueError"),
    ],
)
def test_code_that_cannot_train_is_one_sentence(
    small_study: MakeStudy, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(StudyError) as caught:
        small_study(**changes).check()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_good_study_passes_the_check(small_study: MakeStudy) -> None:
    small_study().check()


def test_description_knows_what_values_depend_on(small_study: MakeStudy) -> None:
    assert small_study().description.settings["batch_size"] == "16"
    assert small_study(batch_size=None).description.settings["batch_size"] == "32"
    searched = small_study(batch_size=None, space=SPACE | {"batch_size": choice(8, 16)})
    assert "batch_size" not in searched.description.settings
    assert searched.batch_size_of({"batch_size": 8}) == 8
    assert small_study().description.differences(small_study(augment=abs).description)
