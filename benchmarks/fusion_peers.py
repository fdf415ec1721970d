"""Published libraries that fuse trials, as further ways of `benchmarks/fusion.py`: HFTA and Hydro.

Both have modules and optimizers with an array dimension B, and their users write each model with
them. They are no dependencies of ours: who wants them timed puts `hfta` or `hydro` on PYTHONPATH.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fusion_models import Case
from benchmarks.fusion_ways import (
    Batches,
    RefusedError,
    StackOptimizer,
    Step,
    Way,
    per_trial,
    stacked,
)

# Of one trial's module class, what a library has in its place for all trials.
Fused = Callable[[type[nn.Module]], Callable[..., nn.Module]]


def hfta(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    ops, optimizers = library("hfta.ops"), library("hfta.optim")
    slots = len(models)

    def fused(kind: type[nn.Module]) -> Callable[..., nn.Module]:
        return ops.get_hfta_op_for(kind, B=slots)  # type: ignore[no-any-return]

    array = array_of(models, fused)
    kind = getattr(torch.optim, case.optimizer)
    if kind is torch.optim.SGD:  # it has none
        return step_of_array(array, StackOptimizer(case, array.parameters(), slots), batches)
    settings = per_trial(case, slots)
    optimizer = optimizers.get_hfta_optim_for(kind, B=slots)(array.parameters(), **settings)
    return step_of_array(array, optimizer, batches)


def hydro(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    ops, optimizers = library("hydro.fuse_ops"), library("hydro.optim")
    slots = len(models)

    def fused(kind: type[nn.Module]) -> Callable[..., nn.Module]:
        return functools.partial(ops.OPS_MAP[kind], B=slots) if kind in ops.OPS_MAP else kind

    array = array_of(models, fused)
    kind = optimizers.fuse_optimizer(getattr(torch.optim, case.optimizer))
    return step_of_array(array, kind(array.parameters(), **per_trial(case, slots)), batches)


def library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library of another day's torch may fail anyhow
        root = name.partition(".")[0]
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == root
        raise RefusedError(
            f"{root} is not importable" + ("" if is_absent else f": {error}")
        ) from error


class Perceptrons(nn.Module):
    """Inputs [B, batch, features]."""

    def __init__(self, fused: Fused, *widths: int) -> None:
        super().__init__()
        linear, relu = fused(nn.Linear), fused(nn.ReLU)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [linear(fan_in, fan_out), relu()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Convolutions(nn.Module):
    """Inputs [B, batch, channels, height, width]; both libraries convolve [batch, B, ...]."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        conv, norm, relu = fused(nn.Conv2d), fused(nn.BatchNorm2d), fused(nn.ReLU)
        self.features = nn.Sequential(
            conv(3, 16, 3, padding=1, bias=False),
            norm(16),
            relu(),
            fused(nn.MaxPool2d)(2),
            conv(16, 32, 3, padding=1, bias=False),
            norm(32),
            relu(),
            fused(nn.AdaptiveAvgPool2d)(4),
        )
        self.head = fused(nn.Linear)(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x.transpose(0, 1).contiguous())
        return self.head(x.flatten(2).transpose(0, 1).contiguous())  # type: ignore[no-any-return]


def array_of(models: Sequence[nn.Module], fused: Fused) -> nn.Module:
    """These models written with a library's modules, and with their values."""
    array = _written_like(models[0], fused)
    ours: list[Any] = [module for module in array.modules() if hasattr(module, "snatch_parameters")]
    for slot, model in enumerate(models):
        theirs = [module for module in model.modules() if _has_values(module)]
        for module, own in zip(ours, theirs, strict=True):
            module.snatch_parameters(own, slot)
    return array


def _has_values(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _written_like(model: nn.Module, fused: Fused) -> nn.Module:
    if isinstance(model, nn.Sequential):
        linear = [module for module in model if isinstance(module, nn.Linear)]
        if all(isinstance(module, nn.Linear | nn.ReLU) for module in model):
            widths = [module.out_features for module in linear]
            return Perceptrons(fused, linear[0].in_features, *widths)
        if len(linear) == 1:
            return Convolutions(fused)
    raise RefusedError("nobody has written this model with its modules")


def step_of_array(array: nn.Module, optimizer: Any, batches: Batches) -> Step:
    """Backward on the sum over the trials of each one's mean."""
    inputs, targets = stacked(batches)
    slots = len(batches)

    def step() -> Tensor:
        outputs = array(inputs)
        each = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        losses = each.view(slots, -1).mean(1)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses

    return step


PEERS: Final[dict[str, Way]] = {"hfta": hfta, "hydro": hydro}
