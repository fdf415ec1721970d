"""Which steps are counted, from optimizers and from engines."""

from __future__ import annotations

import gc
from typing import cast

import pytest
import torch

from hydro_hpc.primary.publisher import Publisher
from hydro_hpc.primary.steps import StepCounter


class Steps:
    """Stands for a publisher, and remembers what it is told."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    def begin_step(self, step: int) -> None:
        self.begun.append(step)


def counting() -> tuple[StepCounter, list[int]]:
    steps = Steps()
    return StepCounter(cast(Publisher, steps), fails=_raise), steps.begun


def _raise(error: Exception) -> None:
    raise error


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_one_optimizers_steps_are_counted() -> None:
    counter, begun = counting()
    only = optimizer()
    for _ in range(3):
        counter.optimizer_step(only)
    assert begun == [1, 2, 3]


def test_ranks_agree_when_one_has_more_optimizers() -> None:
    counter, begun = counting()
    several = [optimizer(), optimizer(), optimizer()]
    for _ in range(3):
        for one in several:
            counter.optimizer_step(one)
    assert begun == [1, 2, 3]


def test_optimizer_that_steps_more_rarely_changes_nothing() -> None:
    counter, begun = counting()
    rare, usual = optimizer(), optimizer()
    for step in range(6):
        if step % 2 == 0:
            counter.optimizer_step(rare)
        counter.optimizer_step(usual)
    assert begun == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("is_kept", [True, False])
def test_counting_goes_on_when_the_optimizer_is_replaced(is_kept: bool) -> None:
    """And does not depend on when the old one is collected, which may differ between ranks."""
    counter, begun = counting()
    kept = []
    for _ in range(3):
        now = optimizer()
        kept += [now] if is_kept else []
        for _ in range(3):
            counter.optimizer_step(now)
        del now
        gc.collect()
    assert begun == [1, 2, 3, 4, 5, 6, 7]


def test_an_engines_steps_count_from_zero_and_silence_the_optimizers() -> None:
    counter, begun = counting()
    own = optimizer()
    counter.optimizer_step(own)
    for _ in range(3):
        counter.engine_step()
        counter.optimizer_step(own)
    assert begun == [1, 0, 1, 2]
