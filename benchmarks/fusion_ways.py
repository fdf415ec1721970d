"""The ways to train F trials that `benchmarks/fusion.py` compares, each as one step to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.fusion_models import Case
from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, bind, losses

Step = Callable[[], None]
Batches = Sequence[tuple[Tensor, Tensor]]  # one per trial


def separate(case: Case, batches: Batches) -> Step:
    """F models one after the other, with torch's default optimizers."""
    return _separate(case, batches, fused=False)


def separate_fused(case: Case, batches: Batches) -> Step:
    """The same, with torch's `fused=True`."""
    return _separate(case, batches, fused=True)


def _separate(case: Case, batches: Batches, *, fused: bool) -> Step:
    models = [case.make() for _ in batches]
    settings = {**case.settings, **({"fused": True} if fused else {})}
    kind = getattr(torch.optim, case.optimizer)
    optimizers = [kind(model.parameters(), **settings) for model in models]

    def step() -> None:
        for model, optimizer, (x, y) in zip(models, optimizers, batches, strict=True):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def stacked_vmap(case: Case, batches: Batches) -> Step:
    """`torch.func` as its tutorial has it: vmap(grad) over stacked models, one torch optimizer over
    the stack, with the same settings for all. Raises what torch raises where it cannot.
    """
    models = [case.make() for _ in batches]
    parameters, buffers = stack_module_state(models)
    skeleton = models[0]
    inputs, targets = _stacked(batches)

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(skeleton, (own, kept), (x,)), y)

    gradient = vmap(grad(loss))
    leaves = {name: nn.Parameter(tensor.detach()) for name, tensor in parameters.items()}
    optimizer = getattr(torch.optim, case.optimizer)(leaves.values(), **case.settings)

    def step() -> None:
        values = {name: leaf.detach() for name, leaf in leaves.items()}
        found = gradient(values, buffers, inputs, targets)
        for name, leaf in leaves.items():
            leaf.grad = found[name]
        optimizer.step()

    step()
    return step


def ours(case: Case, batches: Batches) -> Step:
    """A bundle, chosen and verified as for everybody; every setting one per slot."""
    return step_of(bundle_of(case, batches), case, batches)


def bundle_of(case: Case, batches: Batches) -> Bundle:
    return bind(
        [case.make() for _ in batches], example=batches[0], loss=F.cross_entropy, choices=()
    )


def step_of(bundle: Bundle, case: Case, batches: Batches) -> Step:
    """One training step of a bundle."""
    settings = {name: [value] * len(batches) for name, value in case.settings.items()}
    optimizer: Any = getattr(optim, case.optimizer)(bundle, **settings)
    inputs, targets = _stacked(batches)

    def step() -> None:
        losses(F.cross_entropy, bundle(inputs), targets).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _stacked(batches: Batches) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.stack(inputs), torch.stack(targets)


WAYS: Final[dict[str, Callable[[Case, Batches], Step]]] = {
    "separate": separate,
    "separate, fused=True": separate_fused,
    "vmap(grad)": stacked_vmap,
    "ours": ours,
}
