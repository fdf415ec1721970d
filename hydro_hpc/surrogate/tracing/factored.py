"""By what plain numbers a call multiplies parameters before anything takes them, as a learning rate
that is equalized does: rules are about a parameter's own values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

aten: Final = torch.ops.aten
DIVIDED: Final = frozenset({aten.div, aten.true_divide})
KEPT: Final = frozenset({aten._to_copy, aten.clone, aten.detach})


class Factored:
    """Noted by operator."""

    def __init__(self, model: nn.Module) -> None:
        self.factors: dict[str, float] = {}  # by the names of parameters, once they are used
        self._states = WeakTensorKeyDictionary()  # the name and the factor so far
        for name, parameter in model.named_parameters():
            if parameter.numel() > 1:
                self._states[parameter] = (name, 1.0)

    def become(self, func: Any, args: Sequence[Any], made: Sequence[Tensor]) -> None:
        """Of tensors none of which is an activation."""
        packet = func.overloadpacket
        tensor, other = (*args, None, None)[:2]
        if packet is aten.mul and isinstance(other, Tensor) and other in self._states:
            tensor, other = other, tensor
        if not isinstance(tensor, Tensor) or tensor not in self._states:
            return
        name, factor = self._states[tensor]
        if packet is aten.mul or packet in DIVIDED:
            number = _number(other)
            if not number:
                return
            factor = factor / number if packet in DIVIDED else factor * number
        elif not (func.is_view or packet in KEPT):
            return
        for each in made:
            self._states[each] = (name, factor)

    def meet(self, given: Sequence[Tensor]) -> None:
        """Of tensors some of which are activations."""
        for tensor in given:
            if tensor in self._states:
                name, factor = self._states[tensor]
                self.factors.setdefault(name, factor)


def _number(other: Any) -> float | None:
    """None of what is learned, or no plain number."""
    if isinstance(other, Tensor):
        is_plain = other.numel() == 1 and not other.requires_grad and not other.is_complex()
        return float(other) if is_plain else None
    return float(other) if isinstance(other, int | float) else None
