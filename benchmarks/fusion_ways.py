"""The ways to train F trials that `benchmarks/fusion.py` compares, each as one step to call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    extra = {"fused": True} if fused else {}
    kind = getattr(torch.optim, case.optimizer)
    optimizers = [
        kind(model.parameters(), **case.settings_of(trial), **extra)
        for trial, model in enumerate(models)
    ]

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
    """`torch.func` as its tutorial has it: vmap(grad) over stacked models."""
    parameters, buffers = stack_module_state(list(models))
    skeleton = models[0]
    inputs, targets = stacked(batches)

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(skeleton, (own, kept), (x,)), y)

    gradient = vmap(grad_and_value(loss))
    leaves = {name: nn.Parameter(tensor.detach()) for name, tensor in parameters.items()}
    optimizer = StackOptimizer(case, leaves.values(), len(models))

    def step() -> Tensor:
        values = {name: leaf.detach() for name, leaf in leaves.items()}
        found, losses = gradient(values, buffers, inputs, targets)
        for name, leaf in leaves.items():
            leaf.grad = found[name]
        optimizer.step()
        return losses  # type: ignore[no-any-return]

    return step


class StackOptimizer:
    """One torch optimizer over stacks [F, ...] or [F * n, ...], with a rate per trial, which torch
    has not: a step at the rate 1, and of it the part that is the trial's rate. That is exact,
    for the optimizers of the cases make steps in proportion to their rate.
    """

    def __init__(self, case: Case, stacks: Iterable[nn.Parameter], trials: int) -> None:
        leaves = list(stacks)
        kind = getattr(torch.optim, case.optimizer)
        self._optimizer = kind(leaves, **{**case.settings, "lr": 1.0})
        self._stacks = [leaf.detach() for leaf in leaves]
        rates = torch.tensor(per_trial(case, trials)["lr"])
        self._rates = [
            rates.repeat_interleave(len(stack) // trials).view(-1, *[1] * (stack.dim() - 1))
            for stack in self._stacks
        ]

    def step(self) -> None:
        before = [stack.clone() for stack in self._stacks]
        self._optimizer.step()
        torch._foreach_sub_(self._stacks, before)
        torch._foreach_mul_(self._stacks, self._rates)
        torch._foreach_add_(self._stacks, before)

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()


def ours(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    """A bundle, chosen and verified as for everybody; every setting one per slot."""
    return step_of(bundle_of(models, batches), case, batches)


def bundle_of(models: Sequence[nn.Module], batches: Batches) -> Bundle:
    return bind(models, example=batches[0], loss=F.cross_entropy, choices=())


def step_of(bundle: Bundle, case: Case, batches: Batches) -> Step:
    """One training step of a bundle."""
    optimizer: Any = getattr(optim, case.optimizer)(bundle, **per_trial(case, len(batches)))
    inputs, targets = stacked(batches)

    def step() -> Tensor:
        found = losses(F.cross_entropy, bundle(inputs), targets)
        found.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return found

    return step


def per_trial(case: Case, trials: int) -> dict[str, list[Any]]:
    each = [case.settings_of(trial) for trial in range(trials)]
    return {name: [settings[name] for settings in each] for name in case.settings}


def stacked(batches: Batches) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.stack(inputs), torch.stack(targets)


WAYS: Final[dict[str, Way]] = {
    "separate": separate,
    "separate, fused=True": separate_fused,
    "vmap(grad)": stacked_vmap,
}
