"""Weights that a call multiplies with outside of the calls of their layers, where no hook acts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

aten: Final = torch.ops.aten
LOOKED_UP: Final = frozenset(
    {
        *(aten.index, aten.index_select, aten.gather, aten.embedding),
        *(aten._embedding_bag, aten._embedding_bag_forward_only),
    }
)
FACTORS: Final = frozenset(
    {
        *(aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.addmv),
        *(aten.convolution, aten.mul, aten.mul_),
    }
)


class Beside:
    """Noted by operator. What a weight becomes alone, as a stack of some, stands for it."""

    def __init__(self, model: nn.Module, watched: Mapping[str, Collection[str]]) -> None:
        """`watched` are the paths of layers by the names of their weights."""
        self._watched = watched
        self._origins = WeakTensorKeyDictionary()  # the names of what a tensor is made of
        for name in watched:
            self._origins[model.get_parameter(name)] = frozenset({name})
        self._multiplied: set[str] = set()
        self._used: set[str] = set()

    def become(self, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Of tensors none of which is an activation."""
        names = frozenset[str]().union(*(self._origins.get(tensor, ()) for tensor in given))
        for tensor in made if names else ():
            self._origins[tensor] = names

    def meet(self, func: Any, given: Sequence[Tensor], paths: Collection[str]) -> None:
        """Of tensors some of which are activations, in the calls of these modules."""
        packet = func.overloadpacket
        if func.is_view or packet in LOOKED_UP:
            return
        for tensor in given:
            is_factor = packet in FACTORS and tensor.numel() > 1
            for name in self._origins.get(tensor, ()):
                if not {*paths} & {*self._watched[name]}:
                    (self._multiplied if is_factor else self._used).add(name)

    def names(self, called: Collection[str]) -> tuple[str, ...]:
        """After a call in which these modules were called. Another use of a weight, such as in a
        regularizer, is no fault where one of its layers was.
        """
        uncalled = {name for name in self._used if not {*called} & {*self._watched[name]}}
        return tuple(name for name in self._watched if name in self._multiplied | uncalled)
