"""Trains one surrogate for a few steps on one batch, and records every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn, optim
from torch.utils._pytree import tree_leaves

from hydro_hpc.surrogate.coordinates.records import LOGITS, Form, Measure, Record
from hydro_hpc.surrogate.coordinates.response import (
    Parameters,
    own_change,
    own_parameters,
    parts_of,
    response,
)
from hydro_hpc.surrogate.coordinates.watching import Call, Watched, layers_of, watch
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.table import Family, family_of

Found = tuple[str, Measure, float]  # at a layer after some steps
Ladder = Callable[[int], Surrogate]  # called with a width; draws from torch's global random state

OWN_STEPS: Final = 2  # are looked at: the second for layers whose first gradient is 0

OPTIMIZERS: Final[dict[str, type[optim.Optimizer]]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a model is called with, and the loss of what it returns."""

    call: Call
    loss: Callable[[Any], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. `lr` and `weight_decay` are the target's; `settings` are further arguments of
    torch's optimizer, such as momentum.
    """

    optimizer: str
    lr: float
    weight_decay: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Of one width and seed. `forms` are in the order of the forward."""

    records: tuple[Record, ...]
    forms: dict[str, Form]
    losses: tuple[float, ...]  # before the first step, and after each


def make_optimizer(surrogate: Surrogate, recipe: Recipe) -> optim.Optimizer:
    """ShrinkError if there is no rule for this optimizer."""
    family_of(recipe.optimizer)
    groups = surrogate.param_groups(
        recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    return OPTIMIZERS[recipe.optimizer.lower()](groups, **recipe.settings)


def train(ladder: Ladder, width: int, seed: int, batch: Batch, recipe: Recipe) -> list[float]:
    """The losses alone, as in `Run`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        surrogate = ladder(width)
        optimizer = make_optimizer(surrogate, recipe)
        losses = []
        for step in range(recipe.steps + 1):
            losses.append(_forward(surrogate.module, batch, seed, backward=step < recipe.steps))
            if step < recipe.steps:
                optimizer.step()
    return losses


def record(ladder: Ladder, width: int, seed: int, batch: Batch, recipe: Recipe) -> Run:
    """Makes the steps; the global random state is left as it was."""
    family = family_of(recipe.optimizer)
    found: list[tuple[int, Found]] = []
    losses: list[float] = []
    seen: list[Watched] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        surrogate = ladder(width)
        optimizer = make_optimizer(surrogate, recipe)
        layers = layers_of(surrogate.module)
        before = _parameters(layers)
        for step in range(recipe.steps + 1):
            if 0 < step <= OWN_STEPS:
                found += [(step, x) for x in _own_steps(layers, before, seen[-1], seed, family)]
                before = _parameters(layers)
            with watch(surrogate.module) as now:
                is_last = step == recipe.steps
                losses.append(_forward(surrogate.module, batch, seed, backward=not is_last))
            seen = [*seen[:1], *seen[1:][-1:], now]
            found += [(step, x) for x in _sizes(now)]
            if step:
                found += [(step, x) for x in _changes(now, seen[0])]
                found += [(step, x) for x in _steps_of_logits(now, seen[-2], family)]
            if not is_last:
                optimizer.step()
    records = tuple(
        Record(layer=layer, measure=measure, width=width, seed=seed, step=step, value=value)
        for step, (layer, measure, value) in found
    )
    return Run(records=records, forms=_forms(layers, seen[0]), losses=tuple(losses))


def _forward(model: nn.Module, batch: Batch, seed: int, *, backward: bool) -> float:
    """With the same draws in each step, so that dropout changes nothing."""
    model.zero_grad()
    torch.default_generator.manual_seed(seed)
    args, kwargs = batch.call
    loss = batch.loss(model(*args, **kwargs))
    if backward:
        loss.backward()
    return float(loss.detach())


def _parameters(layers: Mapping[str, nn.Module]) -> dict[str, Parameters]:
    return {layer: own_parameters(module) for layer, module in layers.items()}


def _own_steps(
    layers: Mapping[str, nn.Module],
    before: Mapping[str, Parameters],
    last: Watched,
    seed: int,
    family: Family,
) -> Iterator[Found]:
    for layer in layers:
        if layer not in last.gradients:
            continue
        for part, moved in parts_of(layer, before[layer]).items():
            change = own_change(layers[layer], before[layer], moved, last.calls[layer], seed)
            if change is not None:
                yield part, Measure.STEP, response(change, last.gradients[layer], family)


def _sizes(now: Watched) -> Iterator[Found]:
    for layer, x in now.outputs.items():
        yield layer, Measure.SIZE, _mean(x)


def _changes(now: Watched, first: Watched) -> Iterator[Found]:
    for layer, x in now.outputs.items():
        yield layer, Measure.CHANGE, _mean(x - first.outputs[layer])


def _steps_of_logits(now: Watched, last: Watched, family: Family) -> Iterator[Found]:
    for layer, x in now.outputs.items():
        if layer.endswith(LOGITS) and layer in last.gradients:
            moved = x - last.outputs[layer]
            yield layer, Measure.STEP, response(moved, last.gradients[layer], family)


def _mean(x: Tensor) -> float:
    return float(x.abs().mean()) if x.numel() else math.nan


def _forms(layers: Mapping[str, nn.Module], seen: Watched) -> dict[str, Form]:
    forms = {}
    for layer, x in seen.outputs.items():
        taken = [v for v in tree_leaves(seen.calls.get(layer)) if isinstance(v, Tensor)]
        own = own_parameters(layers[layer]) if layer in layers else {}
        for part, names in (parts_of(layer, own) or {layer: frozenset[str]()}).items():
            forms[part] = Form(
                parameters=tuple(tuple(own[name].shape) for name in own if name in names),
                taken=tuple(tuple(v.shape) for v in taken),
                given=tuple(x.shape),
            )
    return forms
