"""The ways to train F trials that `benchmarks/fusion.py` compares, each as one step to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.fusion_models import Case
from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, bind, losses

Step = Callable[[], Sequence[Tensor] | Tensor]  # one loss per trial, before the update
Batches = Sequence[tuple[Tensor, Tensor]]  # one per trial
Way = Callable[[Case, Sequence[nn.Module], Batches], Step]


class RefusedError(Exception):
    """A way that this model cannot be trained in; the text says why."""


def separate(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    """F models one after the other, with torch's default optimizers."""
    return _separate(case, models, batches, fused=False)


def separate_fused(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    """The same, with torch's `fused=True`."""
    return _separate(case, models, batches, fused=True)


def _separate(case: Case, models: Sequence[nn.Module], batches: Batches, *, fused: bool) -> Step:
    settings = {**case.settings, **({"fused": True} if fused else {})}
    kind = getattr(torch.optim, case.optimizer)
    optimizers = [kind(model.parameters(), **settings) for model in models]

    def step() -> list[Tensor]:
        losses = []
        for model, optimizer, (x, y) in zip(models, optimizers, batches, strict=True):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss)
        return losses

    return step


def stacked_vmap(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    """`torch.func` as its tutorial has it: vmap(grad) over stacked models, one torch optimizer over
    the stack, with the same settings for all.
    """
    parameters, buffers = stack_module_state(list(models))
    skeleton = models[0]
    inputs, targets = stacked(batches)

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(skeleton, (own, kept), (x,)), y)

    gradient = vmap(grad_and_value(loss))
    leaves = {name: nn.Parameter(tensor.detach()) for name, tensor in parameters.items()}
    optimizer = getattr(torch.optim, case.optimizer)(leaves.values(), **case.settings)

    def step() -> Tensor:
        values = {name: leaf.detach() for name, leaf in leaves.items()}
        found, losses = gradient(values, buffers, inputs, targets)
        for name, leaf in leaves.items():
            leaf.grad = found[name]
        optimizer.step()
        return losses  # type: ignore[no-any-return]

    return step


def ours(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    """A bundle, chosen and verified as for everybody; every setting one per slot."""
    return step_of(bundle_of(models, batches), case, batches)


def bundle_of(models: Sequence[nn.Module], batches: Batches) -> Bundle:
    return bind(models, example=batches[0], loss=F.cross_entropy, choices=())


def step_of(bundle: Bundle, case: Case, batches: Batches) -> Step:
    """One training step of a bundle."""
    settings = {name: [value] * len(batches) for name, value in case.settings.items()}
    optimizer: Any = getattr(optim, case.optimizer)(bundle, **settings)
    inputs, targets = stacked(batches)

    def step() -> Tensor:
        found = losses(F.cross_entropy, bundle(inputs), targets)
        found.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return found

    return step


def stacked(batches: Batches) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.stack(inputs), torch.stack(targets)


WAYS: Final[dict[str, Way]] = {
    "separate": separate,
    "separate, fused=True": separate_fused,
    "vmap(grad)": stacked_vmap,
}
