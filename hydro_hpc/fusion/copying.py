"""Copies of a user's model in which nothing of the original is left.

Python's own deepcopy keeps functions as they are, so a closure over the model (a hook, a block that
is a lambda) would go on using the original's layers; and it forgets what hangs on a parameter.
"""

from __future__ import annotations

import copy
import types
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.hidden import HOOKS, without_pause_points
from hydro_hpc.fusion.to_train import to_train

NOT_ATTRIBUTES: Final = frozenset({"_parameters", "_buffers", "_modules"})


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
        copied = _with_own_closures(model, memo)
        for parameter in model.parameters():
            _hang_on(parameter, memo)
    except Exception as error:  # a user's attribute may be anything
        raise FusionError(f"the {who} cannot be copied: {type(error).__name__}: {error}") from error
    return without_pause_points(copied)


def kept_results(model: nn.Module) -> list[Tensor]:
    """What a forward left in plain attributes with its graph, which Python cannot copy."""
    kept = pytree.tree_leaves([_attributes(module) for module in model.modules()])
    return [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]


def _with_own_closures(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy; functions of the model that close over parts of it close over the copy's."""
    functions = [f for module in model.modules() for f in _functions(module) if f.__closure__]
    own = {id(part) for part in [*model.modules(), *model.parameters(), *model.buffers()]}
    for function in functions:
        if any(_reaches(cell.cell_contents, own) for cell in function.__closure__ or ()):
            memo[id(function)] = _with_cells(function)
    copied: nn.Module = copy.deepcopy(model, memo)
    for function in functions:
        if id(function) in memo:
            for cell, original in zip(
                memo[id(function)].__closure__, function.__closure__ or (), strict=True
            ):
                cell.cell_contents = copy.deepcopy(original.cell_contents, memo)
    return copied


def _functions(module: nn.Module) -> list[types.FunctionType]:
    """Those that the module keeps as attributes or hooks."""
    kept = [*_attributes(module).values()]
    kept += [hook for kind in HOOKS for hook in (getattr(module, kind, None) or {}).values()]
    return [value for value in kept if isinstance(value, types.FunctionType)]


def _with_cells(function: types.FunctionType) -> types.FunctionType:
    """The same function with empty cells of its own."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    fresh = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    fresh.__kwdefaults__ = function.__kwdefaults__
    fresh.__dict__.update(vars(function))
    return fresh


def _reaches(value: Any, own: set[int]) -> bool:
    """Says whether a closed-over value is a part of the model, or a container of such."""
    if id(value) in own:
        return True
    if isinstance(value, dict):
        return any(_reaches(part, own) for part in value.values())
    return isinstance(value, list | tuple | set) and any(_reaches(part, own) for part in value)


def _hang_on(original: nn.Parameter, memo: dict[int, Any]) -> None:
    """Gives a copied parameter the hooks and attributes of the original."""
    copied = memo[id(original)]
    for hook in (original._backward_hooks or {}).values():
        copied.register_hook(memo.get(id(hook), hook))
    for hook in (getattr(original, "_post_accumulate_grad_hooks", None) or {}).values():
        copied.register_post_accumulate_grad_hook(memo.get(id(hook), hook))
    for name, value in vars(original).items():
        setattr(copied, name, copy.deepcopy(value, memo))


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in NOT_ATTRIBUTES}
