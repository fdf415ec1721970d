"""Which modules do more than their class says: hooks, or a forward of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from torch import nn

from hydro_hpc.nn.multiplier import InputMultiplier

HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hidden_behaviour(model: nn.Module) -> dict[str, str]:
    """The paths of such modules, with the reason not to look into them; the model itself is ""."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        if reason := _reason(module):
            found[path] = f"{type(module).__name__} '{path}' {reason}"
    return found


def _reason(module: nn.Module) -> str:
    if "forward" in vars(module):
        return "has a forward of its own"
    if any(users_hooks(getattr(module, kind, None)) for kind in HOOKS):
        return "has hooks"
    for name, parameter in module.named_parameters(recurse=False):
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"has hooks at its parameter '{name}'"
    return ""


def users_hooks(hooks: Any) -> list[Any]:
    """Those that a user registered: not ours, which only pause or are fused with their module."""
    registered: Iterable[Any] = hooks.values() if hooks else ()
    ours = InputMultiplier
    return [hook for hook in registered if not is_pause_point(hook) and type(hook) is not ours]


def is_pause_point(hook: Any) -> bool:
    """Says whether it is ours; of a class that says so."""
    return hasattr(type(hook), "is_pause_point")


def without_pause_points(model: nn.Module) -> nn.Module:
    """The model itself; our hooks are taken from it."""
    for module in model.modules():
        for kind in HOOKS:
            hooks = getattr(module, kind, None) or {}
            for key in [k for k, hook in hooks.items() if is_pause_point(hook)]:
                del hooks[key]
    return model
