"""How a forward call uses each parameter: by which of its axes it takes, and by which it gives.

Seen at the level of kernels, below modules and `torch.nn.functional`, so that a raw parameter in a
matrix product and a layer of one's own count as torch's own do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

import torch
from torch import SymInt, Tensor
from torch._decomp import decomposition_table
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from hydro_hpc.surrogate.tracing.factors import factors_between
from hydro_hpc.surrogate.tracing.origins import Origin, Origins, by_stride, hint, memory_of

aten: Final = torch.ops.aten
SUMS: Final = (aten.sum, aten.mean)
VIEWS: Final = (aten.view, aten._unsafe_view, aten._reshape_alias)
WITHOUT_SYMBOLS: Final = ("aten.constant_pad_nd.", "aten.upsample_")
BY_PARTS: Final = {
    operator: parts
    for operator, parts in decomposition_table.items()
    if str(operator).startswith(WITHOUT_SYMBOLS)
}
"""Kernels that ask for the numbers of sizes; their parts do not."""


class How(Enum):
    PRODUCT = "a matrix product or convolution"
    TABLE = "a table that is looked up in"
    ELEMENTWISE = "elementwise"
    COMPOSED = "a product with another parameter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """`into` and `out` are axes of the parameter, where it has such. `gives_output`: what comes of
    it is what the model returns, but for views. `takes_example`: what it multiplies is of the
    example alone, and of no parameter.
    """

    how: How
    into: int | None = None
    out: int | None = None
    gives_output: bool = False
    takes_example: bool = False
    is_convolution: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    name: str
    use: Use
    result: int  # of which memory
    taken: int | SymInt | None = None  # the size that a product takes, which may be a slice's


class UseRecorder(TorchDispatchMode):
    """Entered around a forward call with fake tensors."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Iterable[Tensor],
        *,
        weights: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`weights` are the parameters that layers multiply with what they are given; `buffers` may
        be weights that are not trained.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._head_sizes: list[int | SymInt] = []
        self._seen: list[_Seen] = []
        self._origins = Origins(parameters, buffers or {})
        self._scaled: dict[int, Origin] = {}
        self._multiplied: dict[int, tuple[frozenset[int], Tensor]] = {}
        self._used_besides: set[int] = set()  # of these: what a sum is not all that becomes of
        self._seen_of_sums: list[tuple[int, _Seen]] = []
        self._sizes_of_sums: list[tuple[int, int | SymInt]] = []
        self._active = {memory_of(tensor): tensor for tensor in inputs}
        self._of_example = {*self._active}
        self._weights = weights
        self.factors: list[tuple[int | SymInt, ...]] = []  # sizes of activations, as one axis

    @property
    def head_sizes(self) -> list[int | SymInt]:
        """The sizes over which two activations were multiplied, as they stand in shapes."""
        sums = [size for memory, size in self._sizes_of_sums if memory not in self._used_besides]
        return [*self._head_sizes, *sums]

    def over(self, size: int | SymInt) -> None:
        """Two activations are multiplied over it."""
        self._head_sizes.append(size)

    def uses(self, outputs: Any) -> dict[str, set[Use]]:
        """By parameter or buffer, after the call that returned these."""
        last = {memory_of(x) for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)}
        found: dict[str, set[Use]] = {}
        for seen in self._all_seen():
            use = seen.use
            if seen.result in last:
                use = replace(use, gives_output=True)
            found.setdefault(seen.name, set()).add(use)
        return found

    def taken(self) -> Iterable[tuple[str, int | SymInt]]:
        """The names of what products are with, and the sizes that they take, after the call."""
        return ((seen.name, seen.taken) for seen in self._all_seen() if seen.taken is not None)

    def _all_seen(self) -> list[_Seen]:
        sums = [seen for memory, seen in self._seen_of_sums if memory not in self._used_besides]
        return [*self._seen, *sums]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        result = BY_PARTS.get(func, func)(*args, **(kwargs or {}))
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        if made:
            self._look_at(func, args, given, made)
        return result

    def _look_at(
        self, func: Any, args: tuple[Any, ...], given: list[Tensor], made: list[Tensor]
    ) -> None:
        is_active = any(self._is_active(x) for x in given)
        if read := READERS.get(func.overloadpacket):
            for tensor, use in read(self, args):
                self._see(tensor, use, made[0])
            self._note_used(given)
        elif func.overloadpacket in SUMS and memory_of(given[0]) in self._scaled:
            self._summed(args, given[0], made[0])
        elif func.overloadpacket is aten.sum and memory_of(given[0]) in self._multiplied:
            self._multiplied_over(args, given[0])
        elif is_active:
            if not func.is_view:
                self._note_used(given)
            if func.overloadpacket is aten.mul:
                self._note_scaled(given, made[0])
                self._note_multiplied(given, made[0])
            for tensor in given:
                self._see(tensor, Use(how=How.ELEMENTWISE), made[0])
        if any(self._is_active(x) for x in given):
            if func.overloadpacket in VIEWS:
                self.factors += factors_between(given[0].shape, made[0].shape, hint)
            self._note_example(given, made)
            self._active |= {memory_of(x): x for x in made}
        else:
            own = [(tensor, self._all_origins(tensor)) for tensor in given]
            self._origins.inherit(func, own, made[0])

    def _see(self, tensor: Tensor, use: Use, made: Tensor) -> None:
        """Of all parameters that the tensor is made of; the axes are those of the first."""
        for number, origin in enumerate(self._all_origins(tensor)):
            own = use if not number or origin.axes else replace(use, into=None, out=None)
            dims = [
                d for d in range(tensor.ndim) if own.into is not None and own.how is How.PRODUCT
            ]
            taken = [tensor.shape[d] for d in dims if self.axis(tensor, d) == own.into]
            self._seen.append(_Seen(origin.name, own, memory_of(made), *taken[:1]))

    def _note_example(self, given: list[Tensor], made: list[Tensor]) -> None:
        memories = {memory_of(tensor) for tensor in made}
        others = [tensor for tensor in given if memory_of(tensor) not in self._of_example]
        if any(self._is_active(x) or self._holds_parameter(x) for x in others):
            self._of_example -= memories
        else:
            self._of_example |= memories

    def _note_used(self, given: list[Tensor]) -> None:
        memories = {memory_of(tensor) for tensor in given}
        self._used_besides |= memories & (self._scaled.keys() | self._multiplied.keys())

    def _note_scaled(self, given: list[Tensor], made: Tensor) -> None:
        """Of an activation multiplied by a parameter: the parameter's axes in the result."""
        for tensor in given:
            if origin := self._origin(tensor):
                ahead: list[int | None] = [None] * (made.ndim - tensor.ndim)
                axes = [*ahead, *(self.axis(tensor, dim) for dim in range(tensor.ndim))]
                kept = Origin(origin.name, by_stride(made, axes), made)
                self._scaled[memory_of(made)] = kept

    def _note_multiplied(self, given: list[Tensor], made: Tensor) -> None:
        """Of two activations, value by value; a square is no product of two."""
        if len({memory_of(tensor) for tensor in given if self._is_active(tensor)}) > 1:
            ahead = [made.ndim - tensor.ndim for tensor in given]
            axes = [
                dim
                for dim in range(made.ndim)
                if all(
                    dim >= n and hint(x.shape[dim - n]) > 1
                    for n, x in zip(ahead, given, strict=True)
                )
            ]
            strides = frozenset(hint(made.stride(dim)) for dim in axes)
            self._multiplied[memory_of(made)] = (strides, made)

    def _multiplied_over(self, args: tuple[Any, ...], tensor: Tensor) -> None:
        """A sum over an axis that both have is a product of two activations."""
        memory = memory_of(tensor)
        strides, _ = self._multiplied[memory]
        for dim in _summed_axes(args, tensor):
            if hint(tensor.stride(dim)) in strides:
                self._sizes_of_sums.append((memory, tensor.shape[dim]))

    def _summed(self, args: tuple[Any, ...], tensor: Tensor, made: Tensor) -> None:
        """A sum over an axis of such a parameter is a product with it, if that is all that becomes
        of it: norms of what comes after sum too.
        """
        memory = memory_of(tensor)
        origin = self._scaled[memory]
        for dim in _summed_axes(args, tensor):
            axis = origin.axes.get(hint(tensor.stride(dim)))
            if axis is not None and hint(tensor.shape[dim]) > 1:
                use = Use(how=How.PRODUCT, into=axis)
                seen = _Seen(origin.name, use, memory_of(made), tensor.shape[dim])
                self._seen_of_sums.append((memory, seen))

    def _is_active(self, tensor: Tensor) -> bool:
        return memory_of(tensor) in self._active

    def _origin(self, tensor: Tensor) -> Origin | None:
        return next(iter(self._all_origins(tensor)), None)

    def _all_origins(self, tensor: Tensor) -> list[Origin]:
        return [] if self._is_active(tensor) else self._origins.of(tensor)

    def _holds_parameter(self, tensor: Tensor) -> bool:
        return not self._origins.are_of_buffers(self._all_origins(tensor))

    def begin(self, tensor: Tensor) -> Iterable[tuple[Tensor, Use]]:
        """A layer takes it: if it is a parameter, such as a learned query, it is an activation."""
        if self._holds_parameter(tensor):
            yield tensor, Use(how=How.ELEMENTWISE)
            self._active[memory_of(tensor)] = tensor

    def is_of_example(self, tensor: Tensor) -> bool:
        return memory_of(tensor) in self._of_example

    def _is_weight(self, tensor: Tensor) -> bool:
        origin = self._origin(tensor)
        return origin is not None and origin.name in self._weights

    def axis(self, tensor: Tensor, dim: int) -> int | None:
        """Of the parameter that the tensor holds, the axis that this dimension is of."""
        origin = self._origin(tensor)
        return None if origin is None else origin.axis(tensor, dim)

    def _is_joined(self, tensor: Tensor, dim: int | None) -> bool:
        """Says of what is no layer's weight whether a dimension is no axis of it, but a part of
        one, as in a matrix that is a view of a vector.
        """
        is_part = dim is not None and hint(tensor.shape[dim]) > 1 and self.axis(tensor, dim) is None
        return is_part and self._origin(tensor) is not None and not self._is_weight(tensor)

    def product(
        self, left: Tensor, right: Tensor, *, taken: tuple[int, int], given: tuple[int, int | None]
    ) -> Iterable[tuple[Tensor, Use]]:
        """A product over dimension `taken` of each, which keeps `given` of each."""
        if not self._is_active(left) and not self._is_active(right):
            for tensor, other in ((left, right), (right, left)):
                if self._holds_parameter(other) and not self._holds_parameter(tensor):
                    self._active[memory_of(tensor)] = tensor  # a constant, as of positions
                if self._is_weight(other) and not self._is_weight(tensor):
                    yield from self.begin(tensor)
        active = self._is_active(left), self._is_active(right)
        if all(active):
            self._head_sizes.append(left.shape[taken[0]])
        for tensor, other, into, out, is_multiplied in (
            (left, right, taken[0], given[0], active[1]),
            (right, left, taken[1], given[1], active[0]),
        ):
            if is_multiplied:
                is_first = self.is_of_example(other)
                use = Use(how=How.PRODUCT, into=self.axis(tensor, into), takes_example=is_first)
                if out is not None:
                    use = replace(use, out=self.axis(tensor, out))
                is_joined = any(self._is_joined(tensor, dim) for dim in (into, out))
                yield tensor, replace(use, into=None, out=None) if is_joined else use
            elif self._origin(other) is not None:
                yield tensor, Use(how=How.COMPOSED)


Reader = Callable[[UseRecorder, tuple[Any, ...]], Iterable[tuple[Tensor, Use]]]


def _mm(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    return seen.product(args[0], args[1], taken=(1, 0), given=(0, 1))


def _mv(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    return seen.product(args[0], args[1], taken=(1, 0), given=(0, None))


def _bmm(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    return seen.product(args[0], args[1], taken=(2, 1), given=(1, 2))


def _added(read: Reader) -> Reader:
    """Of a product to which a first argument is added."""

    def reader(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
        yield args[0], Use(how=How.ELEMENTWISE)
        yield from read(seen, args[1:])

    return reader


def _convolution(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    weight, bias, is_transposed = args[1], args[2], args[6]
    into, out = (0, 1) if is_transposed else (1, 0)
    axes = seen.axis(weight, into), seen.axis(weight, out)
    use = Use(how=How.PRODUCT, into=axes[0], out=axes[1], is_convolution=True)
    yield weight, replace(use, takes_example=seen.is_of_example(args[0]))
    yield from seen.begin(args[0])
    if bias is not None:
        yield bias, Use(how=How.ELEMENTWISE)


def _embedding(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    table = args[0]
    yield table, Use(how=How.TABLE, into=seen.axis(table, 0), out=seen.axis(table, 1))


def _index(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    table = args[0]
    looked_up = [dim for dim, index in enumerate(args[1]) if index is not None]
    yield table, Use(how=How.TABLE, into=seen.axis(table, looked_up[0]))


def _select(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    yield args[0], Use(how=How.TABLE, into=seen.axis(args[0], args[1]))


def _attention(seen: UseRecorder, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, Use]]:
    seen.over(args[0].shape[-1])
    return ()


READERS: Final[Mapping[Any, Reader]] = {
    aten.mm: _mm,
    aten.mv: _mv,
    aten.bmm: _bmm,
    aten.addmm: _added(_mm),
    aten.addmv: _added(_mv),
    aten.baddbmm: _added(_bmm),
    aten.convolution: _convolution,
    aten.embedding: _embedding,
    aten._embedding_bag: _embedding,
    aten._embedding_bag_forward_only: _embedding,
    aten.index: _index,
    aten.index_select: _select,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
}


def _summed_axes(args: tuple[Any, ...], tensor: Tensor) -> Iterable[int]:
    dims = args[1] if len(args) > 1 and args[1] is not None else ()
    dims = [dims] if isinstance(dims, int) else dims
    return dims or range(tensor.ndim)
