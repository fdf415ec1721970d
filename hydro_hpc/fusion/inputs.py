"""The arguments of a call, and what they look like apart from what is in their tensors."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.rows import are_tensors

PLAIN = (int, float, str, bool, bytes, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class InputForm:
    """`structure` is equal for two calls if they differ in nothing but tensors; `tensors` are those
    of the call [slots, ...], `template` its other leaves by place."""

    args: tuple[Any, ...] = field(compare=False)
    kwargs: Mapping[str, Any] = field(compare=False)
    structure: Hashable
    tensors: Sequence[Tensor] = field(compare=False)
    template: Mapping[int, Any] = field(compare=False)

    @property
    def precision(self) -> tuple[torch.dtype | None, ...]:
        """What autocast computes in, by kind of device; None where it is off."""
        kinds = {x.device.type for x in self.tensors}
        return tuple(
            [
                torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
                for kind in sorted(kinds)
            ]
        )

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> InputForm:
        if not kwargs and are_tensors(args):
            return cls(args=args, kwargs={}, structure=len(args), tensors=args, template={})
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        template = {n: x for n, x in enumerate(leaves) if not isinstance(x, Tensor)}
        known = tuple((n, x if isinstance(x, PLAIN) else id(x)) for n, x in template.items())
        return cls(
            args=args,
            kwargs=kwargs,
            structure=(str(spec), known),
            tensors=tensors,
            template=template,
        )

    @property
    def shapes(self) -> Hashable:
        """Of the unfused tensors, with their types."""
        return tuple((x.dtype, x.shape[1:]) for x in self.tensors)

    @property
    def but_for_the_batch(self) -> Hashable:
        """The same without the size of the batch, which no rule reads."""
        return self.structure, tuple([(x.dtype, x.ndim, x.shape[2:]) for x in self.tensors])

    def require_slots(self, slots: int) -> None:
        """FusionError unless each tensor has a row per slot."""
        for x in self.tensors:
            if x.ndim == 0 or x.size(0) != slots:
                raise FusionError(
                    f"an input {list(x.shape)} has no leading dimension of {slots} slots: give "
                    "one row per slot, or call bundle.shared(x) for one batch for all"
                )

    def beside(self, active: Sequence[bool], spared: Collection[int]) -> InputForm:
        """The same with what an active slot is given in place of what idle ones of these are."""
        idle = [slot for slot in spared if not active[slot]]
        if not idle or not any(active):
            return self
        donor = active.index(True)
        values = [x if x.stride(0) == 0 else _with_rows_of(x, donor, idle) for x in self.tensors]
        args, kwargs = self.arguments(values)
        return replace(self, args=args, kwargs=kwargs, tensors=values)

    def rows(self) -> list[Tensor]:
        """The first slot's own tensors."""
        return [x[0].detach() for x in self.tensors]

    def without_values(self) -> InputForm:
        """The same with tensors that take no memory."""
        return self.with_tensors([x.detach().new_empty(()).expand(x.shape) for x in self.tensors])

    def with_tensors(self, tensors: Sequence[Tensor]) -> InputForm:
        """The same with these, of the same shapes, in place of its own."""
        args, kwargs = self.arguments(tensors)
        return replace(self, args=args, kwargs=kwargs, tensors=tensors)

    def arguments(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call, with `values` in place of its tensors."""
        if isinstance(self.structure, int):  # plain tensors
            return tuple(values), {}
        remaining = iter(values)
        leaves = [
            self.template[n] if n in self.template else next(remaining)
            for n in range(len(values) + len(self.template))
        ]
        spec = pytree.tree_structure((self.args, dict(self.kwargs)))
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return args, kwargs


def _with_rows_of(x: Tensor, donor: int, slots: Collection[int]) -> Tensor:
    """A copy with the donor's row in place of these, from where no gradient reaches the donor."""
    rows = list(x.unbind())
    for slot in slots:
        rows[slot] = rows[donor].detach()
    return torch.stack(rows)
