"""A multiplier on a module's input: a hook whose effect is known, so that it fuses all the same."""

from __future__ import annotations

from typing import Any

from torch import nn


class InputMultiplier:
    """A forward hook of a module that multiplies its first input; it pickles and copies with it."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        del module
        if args:
            return (args[0] * self.factor, *args[1:]), kwargs
        return args, {**kwargs, "input": kwargs["input"] * self.factor}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputMultiplier) and other.factor == self.factor

    def __hash__(self) -> int:
        return hash(self.factor)


def multiply_input(module: nn.Module, factor: float) -> None:
    """From now on; nothing is done for a factor of 1, so that such a model stays the user's."""
    if factor != 1.0:
        module.register_forward_pre_hook(InputMultiplier(factor), with_kwargs=True)


def input_multipliers(module: nn.Module) -> tuple[float, ...]:
    """The factors on this module's own input."""
    hooks = module._forward_pre_hooks.values()
    return tuple(hook.factor for hook in hooks if isinstance(hook, InputMultiplier))
