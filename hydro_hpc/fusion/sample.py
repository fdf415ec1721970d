"""One batch for all slots, on which executors are compared and timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.rows import split_slots, tensors_in

LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """`args` and `kwargs` are trees of tensors [slots, batch, ...]; `targets` too, if `loss` is
    given; without a loss, a fixed weighted sum of the outputs stands for it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: Any = None
    loss: LossFunction | None = None
    unrotated: Sample | None = None

    @classmethod
    def of_one_model(cls, example: Any, loss: LossFunction | None, slots: int) -> Sample:
        """`example` is ONE model's input, or a tuple of its inputs, with targets last if there is
        a loss. Slots get the batch in different orders, so that a mixed-up slot shows; `unrotated`
        has them as given, for models that need that order.
        """
        given = example if isinstance(example, tuple) else (example,)
        as_given = pytree.tree_map_only(Tensor, lambda x: x.expand(slots, *x.shape), given)
        rotated = pytree.tree_map_only(Tensor, lambda x: _rotations(x, slots), given)
        return replace(cls._of(rotated, loss), unrotated=cls._of(as_given, loss))

    @classmethod
    def _of(cls, stacked: tuple[Any, ...], loss: LossFunction | None) -> Sample:
        if loss is None or len(stacked) < 2:
            return cls(args=stacked, kwargs={})
        return cls(args=stacked[:-1], kwargs={}, targets=stacked[-1], loss=loss)

    def of_slots(self, sources: Sequence[int]) -> Sample:
        """For as many slots, each with the batch of one of these."""
        args, kwargs, targets = pytree.tree_map_only(
            Tensor, lambda x: x[list(sources)], (self.args, dict(self.kwargs), self.targets)
        )
        unrotated = None if self.unrotated is None else self.unrotated.of_slots(sources)
        return replace(self, args=args, kwargs=kwargs, targets=targets, unrotated=unrotated)

    def rows(self, slots: int) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
        """(args, kwargs, targets) of each slot's unfused model, its own to write into."""
        rows = split_slots((self.args, dict(self.kwargs), self.targets), slots)
        own = pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), rows)
        return [(row[0], row[1], row[2]) for row in own]

    def copy(self) -> Sample:
        """The same values, for a model that may write into them."""
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda x: x.detach().clone(), (self.args, dict(self.kwargs))
        )
        return replace(self, args=args, kwargs=kwargs)

    def in_float64(self) -> Sample:
        """The same with floating-point tensors in double precision."""

        def widen(x: Tensor) -> Tensor:
            return x.detach().double() if x.is_floating_point() else x

        args, kwargs, targets = pytree.tree_map_only(
            Tensor, widen, (self.args, dict(self.kwargs), self.targets)
        )
        return replace(self, args=args, kwargs=kwargs, targets=targets)

    def loss_of(self, output: Any, targets: Any, *, is_training: bool) -> Tensor:
        """One model's loss. In evaluation a model may return what its loss does not take."""
        if self.loss is not None:
            try:
                return self.loss(output, targets)
            except Exception:
                if is_training:
                    raise
        real = [x for x in tensors_in(output) if x.is_floating_point()]
        return torch.stack([(x * _weights(x)).sum() for x in real]).sum()


def _rotations(x: Tensor, slots: int) -> Tensor:
    """[batch, ...] -> [slots, batch, ...], slot i rotated by i places."""
    if x.ndim == 0:
        return x.expand(slots)
    return torch.stack([x.roll(slot, 0) for slot in range(slots)])


def _weights(x: Tensor) -> Tensor:
    """Fixed, all different, of the size of a mean's."""
    places = torch.arange(x.numel(), device=x.device, dtype=torch.float64)
    weights = torch.cos(places + 1.0) / math.sqrt(max(1, x.numel()))
    return weights.to(x.dtype).reshape(x.shape)
