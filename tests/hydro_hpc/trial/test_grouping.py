from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.study import Study, choice, uniform
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.grouping import Grouping, largest


class Net(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Dropout(dropout), nn.Linear(width, 2))


def grouping(model: Any = Net, **changes: Any) -> Grouping:
    space: dict[str, Any] = {
        "lr": uniform(0.0, 1.0),
        "batch_size": choice(4, 8),
        "width": choice(3, 5),
        "dropout": uniform(0.0, 0.5),
    }
    study = Study(
        name="groups",
        model=model,
        data=lambda: (torch.zeros(9, 4),) * 4,
        loss=nn.MSELoss(),
        space=space | changes,
        optimizer="sgd",
    )
    return Grouping(study)


def trial(number: int = 0, **changes: Any) -> Trial:
    params = {"lr": 0.1, "batch_size": 4, "width": 3, "dropout": 0.1}
    return Trial(number=number, seed=number, params=params | changes)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"lr": 0.5}, True),
        ({"dropout": 0.4}, True),
        ({"batch_size": 8}, False),
        ({"width": 5}, False),
    ],
)
def test_trials_are_alike_if_models_and_batches_have_one_shape(
    changes: dict[str, Any], is_same: bool
) -> None:
    groups = grouping()
    assert (groups.of(trial(0)) == groups.of(trial(1, **changes))) is is_same


def test_models_that_differ_in_nothing_are_built_once() -> None:
    built: list[int] = []

    def counting(width: int, dropout: float) -> nn.Module:
        built.append(width)
        return Net(width, dropout)

    groups = grouping(counting)
    assert not groups.knows(trial(0))
    for number in range(3):
        groups.of(trial(number, lr=number / 10, batch_size=4 * (1 + number % 2)))
    assert groups.knows(trial(7, lr=0.9))
    assert not groups.knows(trial(7, width=5))
    assert built == [3]


def test_settings_that_torch_refuses_are_found_out() -> None:
    groups = grouping(nesterov=choice(True, False), momentum=choice(0.0, 0.9))
    groups.build(trial(nesterov=True, momentum=0.9))
    with pytest.raises(ValueError, match="momentum"):
        groups.build(trial(nesterov=True, momentum=0.0))


def test_the_largest_group_is_next_and_of_equal_ones_the_first() -> None:
    groups = grouping()
    trials = [trial(n, width=width) for n, width in enumerate((3, 5, 5, 3, 3))]
    assert [t.number for t in largest(trials, groups.of)] == [0, 3, 4]
    assert [t.number for t in largest(trials[:4], groups.of)] == [0, 3]
    assert [t.number for t in largest(trials[1:3], groups.of)] == [1, 2]
    assert largest([], groups.of) == []
