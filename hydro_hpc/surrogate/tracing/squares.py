"""Sums of an activation's squares, as in distances: like a product of two activations they grow
with how many values they are of. A norm that is divided by is none of them, nor is a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

aten: Final = torch.ops.aten
DISTANCES: Final = frozenset({aten._euclidean_dist, aten._cdist_forward})
DIVIDED: Final = frozenset({aten.div, aten.div_})
INVERTED: Final = frozenset({aten.rsqrt, aten.reciprocal})
KEPT: Final = frozenset(
    {
        *(aten.mul, aten.add, aten.add_, aten.sub, aten.clamp, aten.clamp_),
        *(aten.clamp_min, aten.clamp_min_),
        *(aten.maximum, aten.clone, aten._to_copy, aten._unsafe_view, aten.div, aten.neg),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareSum:
    """Over `size` values, in the call of the module `path`; `growth` is what plain numbers and a
    root make of the size, and so of the sum.
    """

    path: str
    size: int
    growth: float


class Squares:
    """Noted by operator."""

    def __init__(self) -> None:
        self._sums: list[SquareSum] = []
        self._squares = WeakTensorKeyDictionary()  # the strides of a square's axes
        self._open = WeakTensorKeyDictionary()  # sums that may come to be divided by

    def meet(
        self,
        func: Any,
        args: Sequence[Any],
        given: Sequence[Tensor],
        made: Sequence[Tensor],
        path: str,
    ) -> None:
        """Of tensors some of which are activations."""
        packet = func.overloadpacket
        if packet in DISTANCES:
            size = int(args[0].shape[-1])
            self._sums.append(SquareSum(path=path, size=size, growth=size))
        elif packet is aten.linalg_vector_norm:
            axes = _axes(args[0], args[2] if len(args) > 2 else None)
            self._begin(args[0], made, axes, path, growth=math.sqrt)
        elif packet is aten.norm and len(args) > 2 and args[1] == 2:  # as of F.pairwise_distance
            self._begin(args[0], made, _axes(args[0], args[2]), path, growth=math.sqrt)
        elif packet is aten.sum and args[0] in self._squares:
            strides = self._squares[args[0]]
            axes = _axes(args[0], args[1] if len(args) > 1 else None)
            own = [axis for axis in axes if args[0].stride(axis) in strides]
            self._begin(args[0], made, own, path, growth=float)
        elif _is_square(packet, args):
            for tensor in made:
                self._squares[tensor] = frozenset(
                    tensor.stride(axis) for axis in range(tensor.ndim) if tensor.shape[axis] > 1
                )
        else:
            self._go_on(func, args, given, made)

    def _begin(
        self,
        tensor: Tensor,
        made: Sequence[Tensor],
        axes: Sequence[int],
        path: str,
        *,
        growth: Callable[[int], float],
    ) -> None:
        size = math.prod(tensor.shape[axis] for axis in axes)
        for each in made if size > 1 else ():
            self._open[each] = SquareSum(path=path, size=size, growth=growth(size))

    def _go_on(
        self, func: Any, args: Sequence[Any], given: Sequence[Tensor], made: Sequence[Tensor]
    ) -> None:
        """A view of squares, and what is added to them, are squares; a sum of them is one until
        something takes it that is neither a plain number nor divided by it.
        """
        packet = func.overloadpacket
        for tensor in given:
            if tensor in self._squares and (func.is_view or packet in (aten.add, aten.sub)):
                for each in made:
                    self._squares[each] = self._squares[tensor]
            if tensor not in self._open:
                continue
            is_divisor = packet in DIVIDED and tensor is args[1]
            if is_divisor or packet in INVERTED or (packet is aten.pow and _power(args) < 0):
                continue
            is_alone = all(other is tensor or other.numel() == 1 for other in given)
            if func.is_view or (is_alone and (packet in KEPT or _is_root(packet, args))):
                for each in made:
                    self._open[each] = _grown(self._open[tensor], packet, args)
            else:
                self._sums.append(self._open[tensor])

    def sums(self, outputs: Sequence[Any]) -> tuple[SquareSum, ...]:
        """After a call that returned these."""
        returned = [self._open[x] for x in outputs if isinstance(x, Tensor) and x in self._open]
        return tuple(dict.fromkeys([*self._sums, *returned]))


def sentence(wide: SquareSum, narrow: SquareSum) -> str:
    """What is wrong with one that grows otherwise in the target than in its surrogate."""
    where = f"{wide.path!r}" if wide.path else "the model"
    return (
        f"{where} sums the squares of {wide.size} values in the target and of {narrow.size} in the "
        f"surrogate, and by muP that must not grow with the width: take {wide.size} times their "
        "mean, which changes nothing in the target"
    )


def _grown(found: SquareSum, packet: Any, args: Sequence[Any]) -> SquareSum:
    if _is_root(packet, args):
        return replace(found, growth=math.sqrt(found.growth))
    if packet not in (aten.mul, aten.div):
        return found
    number = next((x for x in args[:2] if not isinstance(x, Tensor) or x.numel() == 1), 1.0)
    number = abs(float(number)) or 1.0
    by = 1 / number if packet is aten.div else number
    return replace(found, growth=found.growth * by)


def _axes(tensor: Tensor, axes: Any) -> list[int]:
    """As operators take them: all, if none is said."""
    if axes is None:
        return [*range(tensor.ndim)]
    return [axes] if isinstance(axes, int) else [*axes] or [*range(tensor.ndim)]


def _power(args: Sequence[Any]) -> float:
    return math.nan if isinstance(args[1], Tensor) else float(args[1])


def _is_root(packet: Any, args: Sequence[Any]) -> bool:
    return packet is aten.sqrt or (packet is aten.pow and _power(args) == 0.5)


def _is_square(packet: Any, args: Sequence[Any]) -> bool:
    if packet is aten.pow:
        return _power(args) == 2
    return packet is aten.mul and isinstance(args[1], Tensor) and are_same(args[0], args[1])


def are_same(one: Tensor, other: Tensor) -> bool:
    """Says whether they are the same values in the same places, and not two parts of one tensor."""
    where = (one.data_ptr(), one.shape, one.stride())
    return where == (other.data_ptr(), other.shape, other.stride())
