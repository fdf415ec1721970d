"""Can these models be one bundle at all? Same classes, same shapes, something to train."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hydro_hpc.errors import FusionError
from hydro_hpc.nn.multiplier import input_multipliers

Facts = dict[str, str]


def check(models: Sequence[nn.Module]) -> None:
    """FusionError in one sentence unless all models have the signature of the first."""
    if not models:
        raise FusionError("no models were given: a bundle needs at least one")
    for trial, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise FusionError(f"trial {trial}'s model is a {type(model).__name__}, not a Module")
        if any(is_lazy(p) for p in model.parameters()):
            raise FusionError(f"trial {trial}'s model has lazy parameters: call it once before")
        _refuse_scripts(model, f"trial {trial}'s model")
        _refuse_shared_memory(model, f"trial {trial}'s model")
    if not any(p.requires_grad for p in models[0].parameters()):
        raise FusionError("trial 0's model has no parameters to train")
    if len({id(model) for model in models}) < len(models):
        raise FusionError("one model object was given twice: build one for each trial")
    first = facts(models[0])
    for trial, model in enumerate(models[1:], start=1):
        compare(first, facts(model), f"trial {trial}")


def _refuse_scripts(model: nn.Module, who: str) -> None:
    """FusionError if a part is compiled by torch.jit: its parameters are not objects of Python's,
    so they cannot be those of a bundle.
    """
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            part = f"'{path}'" if path else "all"
            raise FusionError(
                f"{who} has {part} compiled by torch.jit.script or trace, which a bundle cannot "
                "train: bind the plain module, and compile what unbind gives"
            )


def _refuse_shared_memory(model: nn.Module, who: str) -> None:
    """FusionError if two tensors of a model lie in the same memory and are not the same one: a copy
    would take them apart.
    """
    spans: list[tuple[int, int, str, Tensor]] = []
    for name, tensor in _every_tensor(model):
        if tensor.numel() and tensor.layout is torch.strided and tensor.device.type != "meta":
            reach = sum(
                (n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)
            )
            first = tensor.data_ptr()
            spans.append((first, first + (reach + 1) * tensor.element_size(), name, tensor))
    spans.sort(key=lambda span: span[:2])
    for (_, stop, name, tensor), (start, _, other_name, other) in itertools.pairwise(spans):
        if start < stop and other is not tensor:
            raise FusionError(
                f"{who} has '{name}' and '{other_name}' in the same memory, which copies of it "
                "would not: make them one Parameter, or compute one from the other in forward"
            )


def _every_tensor(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and plain attributes, each once; not what torch's older norms and pruning
    compute anew from `<name>_orig` in each call.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, value in {**module._parameters, **module._buffers, **vars(module)}.items():
            if not isinstance(value, Tensor) or f"{name}_orig" in module._parameters:
                continue
            if value.grad_fn is None and id(value) not in seen:
                seen.add(id(value))
                yield f"{path}.{name}".lstrip("."), value


def check_like(resident: nn.Module, newcomer: nn.Module, stacked: Collection[str]) -> None:
    """FusionError unless a new trial's model fits where `resident` lives. Buffers that are not
    `stacked` may differ: forward has made them.
    """
    _refuse_scripts(newcomer, "the new trial's model")
    _refuse_shared_memory(newcomer, "the new trial's model")
    compare(facts(resident, stacked), facts(newcomer, stacked), "the new trial")


def compare(first: Facts, other: Facts, who: str) -> None:
    """FusionError that names the first difference between two models' facts."""
    for what in [*first, *(what for what in other if what not in first)]:
        if first.get(what) != other.get(what):
            raise FusionError(
                f"{who} cannot join the bundle: {what} is {other.get(what, 'missing')} there and "
                f"{first.get(what, 'missing')} in trial 0; bind only models of one shape"
            )


def facts(model: nn.Module, stacked: Collection[str] | None = None) -> Facts:
    """What must be equal in two models, so that they can be in one bundle; of all buffers, or of
    these.
    """
    return dict(_facts(model, stacked))


def _facts(model: nn.Module, stacked: Collection[str] | None) -> Iterator[tuple[str, str]]:
    """In the order in which a person would want to hear of it."""
    for path, module in model.named_modules(remove_duplicate=False):
        yield f"class of '{path}'" if path else "class", type(module).__qualname__
        if factors := input_multipliers(module):
            yield f"input multiplier of '{path}'", f"{factors}"
    kinds = (
        ("parameter", model.named_parameters(remove_duplicate=False)),
        ("buffer", model.named_buffers(remove_duplicate=False)),
    )
    seen: dict[int, str] = {}
    for kind, named in kinds:
        for name, tensor in named:
            if kind == "buffer" and stacked is not None and name not in stacked:
                continue
            owner = seen.setdefault(id(tensor), name)
            yield f"{kind} '{name}'", f"{list(tensor.shape)}"
            yield f"dtype of {kind} '{name}'", str(tensor.dtype)
            yield f"device of {kind} '{name}'", str(tensor.device)
            yield f"requires_grad of {kind} '{name}'", str(tensor.requires_grad)
            yield f"tie of {kind} '{name}'", owner
