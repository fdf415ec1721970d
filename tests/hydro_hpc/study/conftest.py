"""A study that trains in milliseconds, for the tests of this directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.study import Study, choice, log_uniform
from hydro_hpc.surrogate import Narrow
from tests.hydro_hpc.study.surrogates import SPACE, WIDTH, Wide


class Net(nn.Module):
    """[batch, 4] -> logits [batch, 2]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def points() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points on two sides of a plane: 70 to train, 30 to test."""
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    return x[:70], y[:70], x[70:], y[70:]


MakeStudy = Callable[..., Study]


@pytest.fixture
def small_study() -> MakeStudy:
    """Makes the small study, with changes to its arguments."""
    return _small_study


def _small_study(**changes: Any) -> Study:
    facts: dict[str, Any] = {
        "name": "small",
        "model": Net,
        "data": points,
        "loss": nn.CrossEntropyLoss(),
        "space": {"lr": log_uniform(1e-3, 1e-1), "width": choice(4, 8)},
        "optimizer": "adam",
        "epochs": 2,
        "batch_size": 16,
        "trials": 5,
        "search": "random",
    }
    return Study(**(facts | changes))


@pytest.fixture
def narrow_study() -> MakeStudy:
    """Makes one whose trials train surrogates."""

    def make(**changes: Any) -> Study:
        facts: dict[str, Any] = {"model": Wide, "space": SPACE, "surrogate": Narrow(width=WIDTH)}
        return _small_study(**(facts | changes))

    return make
