"""The multiplier on an output layer's input, which keeps logits from growing with the width."""

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


def multiply_input(module: nn.Module, factor: float) -> None:
    """From now on; nothing is done for a factor of 1, so that such a model stays the user's."""
    if factor != 1.0:
        module.register_forward_pre_hook(InputMultiplier(factor), with_kwargs=True)
