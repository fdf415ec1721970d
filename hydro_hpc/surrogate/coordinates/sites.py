"""Where parameters act: each with what it gives there on inputs of unit size, and with a way to
take the gradient of any function of that.

Parameters of torch's own layers act where the layer is called. Those of users' modules act at the
first operation that brings them together with what the model takes (`raw_sites.py`), and those of
attention at its logits too (`logits_sites.py`). All inputs are brought to unit size, so that a
layer is not blamed for what others give it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from hydro_hpc.surrogate.coordinates.records import BIAS, MODEL, Form
from hydro_hpc.surrogate.coordinates.watching import Call, Watched, first_tensor

CONTAINERS: Final = ("torch.nn.modules.module", "torch.nn.modules.container")
Pulled = tuple[Tensor | None, ...]  # None where a parameter plays no part


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """`pull` turns a gradient of `shape` into those of the parameters. `gain` is the root mean
    square of what weights give there, None of others.
    """

    part: str  # its name in reports
    names: tuple[str, ...]  # of the parameters in the model, the first of each
    form: Form
    shape: tuple[int, ...]
    gain: float | None
    pull: Callable[[Tensor], Pulled]
    like: Tensor  # of the device and the type of a gradient


def owners_of(model: nn.Module, watched: Watched) -> dict[str, list[str]]:
    """The parameters that learn, by the path of the module whose call uses them: their own, or the
    next above it that was called. One that is shared is at each module that has it.
    """
    owned: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        around = path
        while around and around not in watched.calls:
            around = around.rpartition(".")[0]
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                owned.setdefault(around, []).append(joined(path, name))
    return owned


def first_names(model: nn.Module) -> dict[int, str]:
    """By identity: the names under which parameters have rules."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def is_torchs(module: nn.Module) -> bool:
    """Says whether its forward is that of one of torch's layers."""
    sources = [kind.__module__ for kind in type(module).__mro__]
    return any(s.startswith("torch.nn.") and s not in CONTAINERS for s in sources)


def layer_sites(model: nn.Module, path: str, names: Sequence[str], call: Call) -> Iterator[Site]:
    """Of one of torch's layers, in the call that it had."""
    layer = model.get_submodule(path)
    start = len(path) + 1 if path else 0
    leaves = {name[start:]: leaf_of(model.get_parameter(name)) for name in names}
    first = first_names(model)
    args, kwargs = tree_map_only(Tensor, unit, call)

    def given(parameters: Mapping[str, Tensor]) -> Tensor | None:
        buffers = {name: value.clone() for name, value in layer.named_buffers()}
        with torch.random.fork_rng(devices=[]):
            found = torch.func.functional_call(
                layer, {**parameters, **buffers}, args, kwargs, tie_weights=False
            )
        return first_tensor(found)

    y = given(leaves)
    if y is None or not y.requires_grad:
        return
    taken = shapes_in(call)
    for part, own in parts_of(path, leaves).items():
        used = {name: leaves[name] for name in own}
        gain = None
        if any(value.ndim > 1 for value in used.values()):
            with torch.no_grad():
                zeros = {name: torch.zeros_like(value) for name, value in used.items()}
                without = given({**leaves, **zeros})
            gain = None if without is None else gain_of(y, without)
        yield Site(
            part=part,
            names=tuple(first[id(model.get_parameter(joined(path, name)))] for name in own),
            form=form_of(used.values(), taken, y),
            shape=tuple(y.shape),
            gain=gain,
            pull=puller(y, [*used.values()]),
            like=y.detach(),
        )


def parts_of(path: str, parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The parameters of a layer that are looked at together: each weight, biases beside them."""
    layer = path or MODEL
    weights = [name for name, value in parameters.items() if value.ndim > 1]
    others = [name for name in parameters if name not in weights]
    if not weights:
        return {layer: others} if others else {}
    single = {layer: weights}
    each = {joined(path, name): [name] for name in weights}
    return {
        **(single if len(weights) == 1 else each),
        **({f"{layer} {BIAS}": others} if others else {}),
    }


def puller(y: Tensor, leaves: Sequence[Tensor]) -> Callable[[Tensor], Pulled]:
    def pull(gradient: Tensor) -> Pulled:
        return torch.autograd.grad(y, leaves, gradient, retain_graph=True, allow_unused=True)

    return pull


def unit(x: Tensor) -> Tensor:
    """Scaled to a root mean square of 1; a copy. What cannot be stays: indices, masks, zeros."""
    x = x.detach().clone()
    size = root_mean_square(x) if x.is_floating_point() and x.ndim else 0.0
    return x / size if 0.0 < size < float("inf") else x


def gain_of(y: Tensor, without: Tensor) -> float | None:
    """None where a model gives nothing without a parameter, as a norm of zeros."""
    gain = root_mean_square(y.detach() - without)
    return gain if math.isfinite(gain) else None


def root_mean_square(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0


def shapes_in(tree: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(x.shape) for x in tree_leaves(tree) if isinstance(x, Tensor))


def form_of(used: Any, taken: tuple[tuple[int, ...], ...], y: Tensor) -> Form:
    return Form(parameters=shapes_in(list(used)), taken=taken, given=tuple(y.shape))


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def leaf_of(parameter: Tensor) -> Tensor:
    return parameter.detach().clone().requires_grad_()
