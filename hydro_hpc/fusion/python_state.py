"""What a model keeps beside its modules, parameters and buffers: is it written, is it the same?"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

# Tensors and flags are compared elsewhere, hooks of forward and backward looked at by themselves.
APART: Final = frozenset({"_modules", "_parameters", "_buffers", "training"})
# What forward does not read: hooks of state_dict, weak references to a module's own parameters.
UNREAD: Final = frozenset(
    {
        "_flat_weight_refs", "_load_state_dict_post_hooks", "_load_state_dict_pre_hooks",
        "_state_dict_hooks", "_state_dict_pre_hooks",
    }
)  # fmt: skip


def python_state(model: nn.Module) -> dict[str, str]:
    """Every attribute of every module, by path, as text that changes when it is written.

    It goes by identities: keep the values alive while two states are compared.
    """
    return {
        f"{path}.{name}".lstrip("."): _fingerprint(value)
        for path, module in model.named_modules()
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items()
        if name not in APART and name not in UNREAD
    }


def first_change(
    before: Mapping[str, str], after: Mapping[str, str], *, apart: str | None = None
) -> str:
    """The path of the first attribute that differs between two states; empty if none does. Names
    that begin with `apart` do not count.
    """
    changed = {path for path, _ in set(before.items()) ^ set(after.items())}
    counted = sorted(p for p in changed if not apart or not p.rpartition(".")[2].startswith(apart))
    return counted[0] if counted else ""


def first_difference(one: nn.Module, other: nn.Module) -> str:
    """The path of the first attribute in which two models of one class differ by value; empty if
    none does. What cannot be compared differs.
    """
    others = dict(other.named_modules())
    for path, module in one.named_modules():
        mine, theirs = vars(module), vars(others[path])
        for name in sorted({*mine, *theirs} - APART - UNREAD):
            if name not in mine or name not in theirs or not _equal(mine[name], theirs[name]):
                return f"{path}.{name}".lstrip(".")
    return ""


def _fingerprint(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_fingerprint(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | set):
        return "[" + ",".join(_fingerprint(v) for v in value) + "]"
    if isinstance(value, str | int | float | bool | complex | bytes | None):
        return repr(value)
    version = value._version if isinstance(value, torch.Tensor) else 0  # writes in place
    return f"{type(value).__name__}@{id(value)}.{version}"


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if one is other:
        return True
    if isinstance(one, dict):
        return list(one) == list(other) and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, nn.Parameter | nn.Module):
        return True  # part of the model under a path of its own, or found to differ by its values
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, types.MethodType):
        return one.__func__ is other.__func__ and isinstance(one.__self__, nn.Module)
    if isinstance(one, types.FunctionType):
        return one.__code__ is other.__code__ and not one.__closure__
    try:
        return bool(one == other)
    except Exception:  # a user's class may compare in any way
        return False
