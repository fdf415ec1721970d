"""Trains one model of one task at one width, with one configuration and one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.transfer_models import Batch, Task
from hydro_hpc.surrogate import Surrogate, shrink

Parametrization = Literal["mup", "sp"]
WARM_UP: Final = 0.1  # of the steps
MOMENTUM: Final = 0.9
BETAS: Final = (0.9, 0.99)  # few steps: a second moment over 1000 would not be one


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a surrogate is to find for its target."""

    lr: float
    momentum: float = MOMENTUM  # of SGD
    betas: tuple[float, float] = BETAS  # of Adam and AdamW
    init_scale: float = 1.0
    warm_up: float = WARM_UP


def random_configurations(best_lr: float, count: int) -> list[Configuration]:
    """With rates within a factor of 10 of the best, to either side."""
    draws = random.Random(0)
    return [
        Configuration(
            lr=best_lr * 10 ** draws.uniform(-1, 1),
            momentum=draws.choice((0.0, 0.8, 0.9, 0.95)),
            betas=(draws.choice((0.8, 0.9, 0.95)), draws.choice((0.95, 0.99, 0.999))),
            init_scale=2 ** draws.uniform(-1, 1),
            warm_up=draws.choice((0.0, 0.1, 0.3)),
        )
        for _ in range(count)
    ]


def loss_after_training(
    task: Task,
    parametrization: Parametrization,
    width: int,
    configuration: Configuration,
    seed: int,
) -> float:
    """On the validation set; infinite if that is no better than before the training, as where it
    diverges. `mup`: as a surrogate; `sp`: the model that the factory builds, with one learning rate
    for all of it.
    """
    torch.manual_seed(seed)
    model, optimizer = _begin(task, parametrization, width, configuration)
    rates = [group["lr"] for group in optimizer.param_groups]
    factors = schedule(task.steps, configuration.warm_up)
    for factor, batch in zip(factors, _batches(task, seed), strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad()
        loss = _loss(model, batch)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        inputs, classes = _validation(task)
        outputs = model(inputs)
        final = float(F.cross_entropy(outputs, classes))
    is_trained = final < math.log(outputs.size(1))  # the loss of who takes all classes as alike
    return final if is_trained else math.inf


def schedule(steps: int, warm_up: float) -> Iterator[float]:
    """Of each step's rate: up to 1 in a line, and down to nearly 0."""
    rising = round(steps * warm_up)
    for step in range(steps):
        yield (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def _begin(
    task: Task, parametrization: Parametrization, width: int, configuration: Configuration
) -> tuple[nn.Module, torch.optim.Optimizer]:
    factory = partial(task.factory, init_scale=configuration.init_scale)
    if parametrization == "mup":
        surrogate: Surrogate = shrink(factory, width=width)
        module = surrogate.module
        groups = surrogate.param_groups(task.optimizer, lr=configuration.lr, weight_decay=0.0)
    else:
        module = factory(width=width)
        groups = [{"params": list(module.parameters()), "lr": configuration.lr}]
    return module, _optimizer(task.optimizer, groups, configuration)


def _optimizer(
    name: str, groups: list[dict[str, Any]], configuration: Configuration
) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=configuration.momentum)
    betas = configuration.betas
    if name == "adam":
        return torch.optim.Adam(groups, betas=betas, fused=True)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=0.0, fused=True)


def _loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    inputs, classes = batch
    return F.cross_entropy(model(inputs), classes)


@lru_cache(maxsize=3)  # the seeds of a curve
def _batches(task: Task, seed: int) -> tuple[Batch, ...]:
    """Of all steps: every width and configuration trains on the same."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(task.batch(task.batch_size, generator) for _ in range(task.steps))


@cache
def _validation(task: Task) -> Batch:
    return task.validation()
