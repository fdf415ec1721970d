"""Copies of a user's model in which nothing of the original is left.

Python's own deepcopy keeps functions and weak references as they are, so a closure over the model
(a hook, a block that is a lambda) would go on using the original's layers; and it forgets what
hangs on a parameter.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.back_references import APART, BackReferences
from hydro_hpc.fusion.hidden import without_pause_points
from hydro_hpc.fusion.to_train import to_train


def own_copy(model: nn.Module, who: str) -> nn.Module:
    """A deep copy in which every parameter and buffer has storage of its own and no gradient."""
    with to_train():
        return _own_copy(model, who)


def _own_copy(model: nn.Module, who: str) -> nn.Module:
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        values = parameter.detach().clone(memory_format=torch.contiguous_format)
        memo[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
    for tensor in [*model.buffers(), *kept_results(model)]:
        memo[id(tensor)] = tensor.detach().clone(memory_format=torch.contiguous_format)
    try:
        back = BackReferences(model)
        copied = _deep_copy(model, memo, back)
        for parameter in model.parameters():
            _hang_on(parameter, memo, back)
    except FusionError as error:
        raise FusionError(f"the {who} cannot be copied: {error}") from error
    except Exception as error:  # a user's attribute may be anything
        raise FusionError(f"the {who} cannot be copied: {type(error).__name__}: {error}") from error
    return without_pause_points(copied)


def kept_results(model: nn.Module) -> list[Tensor]:
    """What a forward left in plain attributes with its graph, which Python cannot copy."""
    kept = pytree.tree_leaves([_attributes(module) for module in model.modules()])
    return [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]


def deep_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """As Python's own; what the model holds that leads back to it leads to the copy."""
    return _deep_copy(model, memo, BackReferences(model))


def _deep_copy(model: nn.Module, memo: dict[int, Any], back: BackReferences) -> nn.Module:
    back.prepare(memo)
    copied: nn.Module = copy.deepcopy(model, memo)
    back.complete(memo)
    return copied


def _hang_on(original: nn.Parameter, memo: dict[int, Any], back: BackReferences) -> None:
    """Gives a copied parameter the hooks and attributes of the original."""
    copied = memo[id(original)]

    def own(hook: Any) -> Any:
        return copy.deepcopy(hook, memo) if back.leads_back(hook) else hook

    for hook in (original._backward_hooks or {}).values():
        copied.register_hook(own(hook))
    for hook in (getattr(original, "_post_accumulate_grad_hooks", None) or {}).values():
        copied.register_post_accumulate_grad_hook(own(hook))
    for name, value in vars(original).items():
        setattr(copied, name, copy.deepcopy(value, memo))


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in APART}
