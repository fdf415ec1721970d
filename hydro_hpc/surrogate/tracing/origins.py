"""Which tensors of a call hold a parameter or a buffer, as it is or after a change that no input of
the model had a part in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import SymInt, Tensor

aten: Final = torch.ops.aten
ADDED: Final = frozenset({aten.add, aten.sub, aten.cat, aten.stack})
PRODUCTS: Final = frozenset(
    {
        *(aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.addmv),
        aten.convolution,
    }
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Of a tensor whose memory holds a parameter or buffer; `axes` are those of it by the stride
    that they have in the tensor.
    """

    name: str
    axes: Mapping[int, int]
    kept: Tensor  # so that its memory is not taken for another's

    def axis(self, tensor: Tensor, dim: int) -> int | None:
        """The axis that this dimension of the tensor is of."""
        return None if hint(tensor.shape[dim]) == 1 else self.axes.get(hint(tensor.stride(dim)))


class Origins:
    """Those of parameters come before those of buffers, which are constants where both meet."""

    def __init__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        self._buffers = frozenset(buffers)
        self._origins: dict[int, list[Origin]] = {}
        for name, tensor in [*parameters.items(), *buffers.items()]:
            own = Origin(name, by_stride(tensor, range(tensor.ndim)), tensor)
            self._origins.setdefault(memory_of(tensor), []).append(own)

    def of(self, tensor: Tensor) -> list[Origin]:
        """The first is the one that the tensor's axes are of."""
        return self._origins.get(memory_of(tensor), [])

    def are_of_buffers(self, origins: Iterable[Origin]) -> bool:
        """Says whether no parameter is among them."""
        return all(origin.name in self._buffers for origin in origins)

    def inherit(
        self, func: Any, given: Sequence[tuple[Tensor, Sequence[Origin]]], made: Tensor
    ) -> None:
        """A change of a parameter is used in its place; where shapes differ, its axes are lost. A
        buffer that a parameter as large is multiplied with, as a mask is, is no weight by itself,
        nor is what it makes of a constant, as of a state's zeros.
        """
        shape = [hint(size) for size in made.shape]
        alike = [each for each in given if [hint(size) for size in each[0].shape] == shape]
        others = [each for each in given if all(each[0] is not one for one, _ in alike)]
        found: dict[str, Origin] = {}
        for tensor, origins in [*alike, *others]:
            for origin in origins:
                own = [origin.axis(tensor, dim) for dim in range(tensor.ndim)]
                is_alike = any(tensor is each for each, _ in alike)
                axes = by_stride(made, own) if is_alike else {}
                found.setdefault(origin.name, Origin(origin.name, axes, made))
        fixed = [origin for origin in found.values() if origin.name in self._buffers]
        drawn = [origin for origin in found.values() if origin.name not in self._buffers]
        kept = [*drawn]
        if func.overloadpacket in ADDED or (not drawn and func.overloadpacket not in PRODUCTS):
            kept += fixed
        elif drawn and self._largest(given, fixed) > self._largest(given, drawn):
            kept = [*fixed, *drawn]
        if kept:
            self._origins.setdefault(memory_of(made), kept)

    def _largest(
        self, given: Sequence[tuple[Tensor, Sequence[Origin]]], some: Sequence[Origin]
    ) -> int:
        """How many values a tensor has that is of one of these."""
        names = {origin.name for origin in some}
        return max(
            (
                math.prod(hint(size) for size in tensor.shape)
                for tensor, origins in given
                if any(origin.name in names for origin in origins)
            ),
            default=0,
        )


def memory_of(tensor: Tensor) -> int:
    """Which memory a tensor, or a view of it, is in."""
    return int(tensor.untyped_storage()._cdata)


def hint(size: int | SymInt) -> int:
    """A symbol's own number, without an equation made of it."""
    return int(size.node.hint) if isinstance(size, SymInt) else int(size)


def by_stride(tensor: Tensor, axes: Iterable[int | None]) -> dict[int, int]:
    """The axes that a tensor's dimensions are of, but for those of one value."""
    return {
        hint(tensor.stride(dim)): axis
        for dim, axis in enumerate(axes)
        if axis is not None and hint(tensor.shape[dim]) > 1
    }
