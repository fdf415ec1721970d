"""Trains one surrogate for a few steps on one batch, and records every layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from hydro_hpc.surrogate.coordinates.logits_sites import logits_sites
from hydro_hpc.surrogate.coordinates.raw_sites import raw_sites
from hydro_hpc.surrogate.coordinates.recipe import Batch, Ladder, Recipe, groups_of, make_optimizer
from hydro_hpc.surrogate.coordinates.records import Form, Measure, Record
from hydro_hpc.surrogate.coordinates.response import responses
from hydro_hpc.surrogate.coordinates.sites import Site, is_torchs, layer_sites, owners_of, shapes_in
from hydro_hpc.surrogate.coordinates.watching import Call, Watched, watch
from hydro_hpc.surrogate.surrogate import Surrogate

Found = tuple[str, Measure, float]  # at a layer after some steps

PROBED: Final = 2  # times: once more after a step, where gradients are 0 at first


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Of one width and seed. `forms` are in the order of the forward. `unseen` are parameters that
    learn, in a way that could not be followed.
    """

    records: tuple[Record, ...]
    forms: dict[str, Form]
    losses: tuple[float, ...]  # before the first step, and after each
    unseen: tuple[str, ...]


def train(ladder: Ladder, width: int, seed: int, batch: Batch, recipe: Recipe) -> list[float]:
    """The losses alone, as in `Run`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        surrogate = ladder(width)
        optimizer = make_optimizer(groups_of(surrogate, recipe), recipe)
        losses = []
        for step in range(recipe.steps + 1):
            losses.append(_forward(surrogate.module, batch, seed, backward=step < recipe.steps))
            if step < recipe.steps:
                optimizer.step()
    return losses


def record(ladder: Ladder, width: int, seed: int, batch: Batch, recipe: Recipe) -> Run:
    """Makes the steps; the global random state is left as it was."""
    found: list[tuple[int, Found]] = []
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        surrogate = ladder(width)
        optimizer = make_optimizer(groups_of(surrogate, recipe), recipe)
        probing = _Probing(surrogate, batch, recipe, seed)
        for step in range(recipe.steps + 1):
            with watch(surrogate.module) as now:
                is_last = step == recipe.steps
                losses.append(_forward(surrogate.module, batch, seed, backward=not is_last))
            if not step:
                first = now
            if step < PROBED and not is_last:
                found += [(step, x) for x in probing.at(now)]
            found += [(step, x) for x in _sizes(now)]
            found += [(step, x) for x in _changes(now, first)] if step else []
            if not is_last:
                optimizer.step()
    records = tuple(
        Record(layer=layer, measure=measure, width=width, seed=seed, step=step, value=value)
        for step, (layer, measure, value) in found
    )
    forms = _forms(probing.forms | probing.unseen_forms, first)
    return Run(records=records, forms=forms, losses=tuple(losses), unseen=probing.unseen)


class _Probing:
    """Of one surrogate, with the gradients of the loss at its parameters."""

    def __init__(self, surrogate: Surrogate, batch: Batch, recipe: Recipe, seed: int) -> None:
        self.forms: dict[str, Form] = {}
        self._surrogate, self._batch, self._recipe = surrogate, batch, recipe
        self._seed = seed
        self._part_of: dict[str, str] = {}  # by parameter
        self._moved: set[str] = set()  # parameters
        self._learning: set[str] = set()

    @property
    def unseen(self) -> tuple[str, ...]:
        still = sorted(self._learning - self._moved)
        return tuple(dict.fromkeys(self._part_of.get(name, name) for name in still))

    @property
    def unseen_forms(self) -> dict[str, Form]:
        """Of parameters that were at no site."""
        named = dict(self._surrogate.module.named_parameters())
        shapes = {name: tuple(named[name].shape) for name in self.unseen if name in named}
        return {
            name: Form(parameters=(shape,), taken=(), given=())
            for name, shape in shapes.items()
            if name not in self.forms
        }

    def at(self, now: Watched) -> Iterator[Found]:
        """Of what did not move before."""
        model = self._surrogate.module
        self._learning |= {
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and bool(parameter.grad.any())
        }
        if self.forms and self._learning <= self._moved:
            return
        torch.default_generator.manual_seed(self._seed)
        every = sites_of(model, now, self._batch.call)
        sites = [site for site in every if not self._moved.issuperset(site.names)]
        if not self.forms:
            self.forms = {site.part: site.form for site in sites}
            self._part_of = {name: site.part for site in reversed(sites) for name in site.names}
            yield from ((s.part, Measure.GAIN, s.gain) for s in sites if s.gain is not None)
        if not sites:
            return
        for site, value in responses(self._surrogate, self._recipe, sites, self._seed):
            self._moved |= {*site.names} if value else set()
            yield site.part, Measure.STEP, value


def sites_of(model: nn.Module, seen: Watched, call: Call) -> Iterator[Site]:
    """Of all parameters that learn."""
    raw: list[str] = []
    for path, names in owners_of(model, seen).items():
        if is_torchs(model.get_submodule(path)):
            yield from layer_sites(model, path, names, seen.calls[path])
        else:
            raw += names
    if raw:
        yield from raw_sites(model, raw, call)
    yield from logits_sites(model, seen)


def _forward(model: nn.Module, batch: Batch, seed: int, *, backward: bool) -> float:
    """With the same draws in each step, so that dropout changes nothing."""
    model.zero_grad()
    torch.default_generator.manual_seed(seed)
    args, kwargs = batch.call
    loss = batch.loss(model(*args, **kwargs))
    if backward:
        loss.backward()
    return float(loss.detach())


def _sizes(now: Watched) -> Iterator[Found]:
    for layer, x in now.outputs.items():
        yield layer, Measure.SIZE, _mean(x)


def _changes(now: Watched, first: Watched) -> Iterator[Found]:
    for layer, x in now.outputs.items():
        yield layer, Measure.CHANGE, _mean(x - first.outputs[layer])


def _mean(x: Tensor) -> float:
    return float(x.abs().mean()) if x.numel() else math.nan


def _forms(parts: Mapping[str, Form], seen: Watched) -> dict[str, Form]:
    """Of layers too of which no parameter was looked at."""
    bare = {
        layer: Form(parameters=(), taken=shapes_in(seen.calls.get(layer)), given=tuple(x.shape))
        for layer, x in seen.outputs.items()
    }
    inside = {part: _layer_around(part, bare) for part in parts}
    found = {part: form for part, form in parts.items() if not inside[part]}
    for layer in bare:
        own = {part: form for part, form in parts.items() if inside[part] == layer}
        found |= {layer: bare[layer], **own}
    return found


def _layer_around(part: str, layers: Mapping[str, Form]) -> str:
    """Empty for what is of no layer."""
    found = (n for n in layers if part == n or part.startswith((f"{n} ", f"{n}.")))
    return max(found, key=len, default="")
