"""What a model keeps beside its modules, parameters and buffers: is it written?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

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


def _fingerprint(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_fingerprint(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | set):
        return "[" + ",".join(_fingerprint(v) for v in value) + "]"
    if isinstance(value, str | int | float | bool | complex | bytes | None):
        return repr(value)
    version = value._version if isinstance(value, torch.Tensor) else 0  # writes in place
    return f"{type(value).__name__}@{id(value)}.{version}"
