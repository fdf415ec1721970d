"""One call of a model with real values, and what it does with activations beside its layers: what
plain numbers multiply them with, over which sizes two of them are multiplied, and which weights are
multiplied with outside of their layers' calls.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from hydro_hpc.nn.multiplier import InputMultiplier
from hydro_hpc.surrogate.layouts import places_of
from hydro_hpc.surrogate.tracing.beside import Beside
from hydro_hpc.surrogate.tracing.calling import called, copied
from hydro_hpc.surrogate.tracing.factored import Factored
from hydro_hpc.surrogate.tracing.norms import has_equal_rows, has_unit_rows
from hydro_hpc.surrogate.tracing.squares import DIVIDED, Squares, SquareSum, are_same

aten: Final = torch.ops.aten
PRODUCTS: Final = {
    aten.mm: 0,
    aten.bmm: 0,
    aten.mv: 0,
    aten.dot: 0,
    aten.addmm: 1,
    aten.baddbmm: 1,
    aten.addmv: 1,
}
"""By how many arguments come before the two factors."""
KERNELS: Final = frozenset(
    {
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
    }
)
SOFTMAXES: Final = frozenset({aten._softmax, aten._safe_softmax})
MULTIPLIED: Final = frozenset({aten.mul, aten.mul_, *DIVIDED})
JOINED: Final = frozenset({aten.cat, aten.stack})
PASSED: Final = frozenset(
    {
        *(aten.add, aten.add_, aten.sub, aten.sub_, aten.masked_fill, aten.masked_fill_),
        *(aten.where, aten.clone, aten.copy_, aten._to_copy, aten._unsafe_view, aten.neg),
        *JOINED,
    }
)
"""What is added to logits, and in what form they are kept, leaves their factor as it is."""
PICKED: Final = frozenset({aten.index, aten.gather, aten.index_select})


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Two activations are multiplied over `size` values, and by `factor`, None if that could not be
    told. `num_normed` of them are divided by their norms before.
    """

    path: str  # of the innermost module in whose call it is
    size: int
    factor: float | None
    num_normed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """By what plain numbers multiply what a module gives."""

    giver: str
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Each in the order of the call. `logits` are products that a softmax takes, `products` the
    others; `beside` are the watched parameters that are multiplied with outside of their layers,
    `factors` by what plain numbers parameters are multiplied before that, `squares` the sums of
    squares by which nothing is divided.
    """

    logits: tuple[Product, ...]
    products: tuple[Product, ...]
    scales: tuple[Scale, ...]
    beside: tuple[str, ...]
    factors: Mapping[str, float]
    squares: tuple[SquareSum, ...]


def seen_in(
    model: nn.Module, example: Any, *, watched: Mapping[str, Collection[str]] | None = None
) -> Seen:
    """In a call of a copy of the model, without a surrogate's multipliers. `watched` are the paths
    of layers by the names of their parameters.
    """
    own = copied(model)
    for module in own.modules():
        for key, hook in [*module._forward_pre_hooks.items()]:
            if isinstance(hook, InputMultiplier):
                del module._forward_pre_hooks[key]
    probe = _Probe(own, watched or {})
    given = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), example)
    for leaf in pytree.tree_leaves(given):
        if isinstance(leaf, Tensor):
            probe.states[leaf] = _State()
    # With gradients, since without them torch's own layers run in one opaque kernel.
    with torch.random.fork_rng(), torch.enable_grad(), probe.follow(own), probe:
        outputs = called(own, given)
    return probe.seen(outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """An activation: `factor` is by what plain numbers multiplied it since `giver` gave it, None if
    that is not known, or it was not given whole; `size` is over how many values two activations
    were multiplied for it, in the call of `path`, of which `num_normed` had been divided by their
    norms. `shared` are the strides of the axes of both factors of a product value by value, and
    `scales` by what these were multiplied, unless that product is summed over. `before` is the part
    of `factor` that is of before `giver`.
    """

    factor: float | None = 1.0
    before: float = 1.0
    giver: str | None = None
    scales: tuple[Scale, ...] = ()
    size: int | None = None
    path: str = ""
    num_normed: int = 0
    shared: frozenset[int] = frozenset()


class _Probe(TorchDispatchMode):
    def __init__(self, model: nn.Module, watched: Mapping[str, Collection[str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.states = WeakTensorKeyDictionary()
        self._beside = Beside(model, watched)
        self._factored = Factored(model)
        self._squares = Squares()
        self._layers = {
            place.path
            for places in places_of(model).values()
            for place in places
            if place.out_in is not None
        }
        self._logits: list[Product] = []
        self._products: list[Product] = []
        self._scales: list[Scale] = []
        self._called: set[str] = set()
        self._paths: list[str] = [""]

    def seen(self, outputs: Any) -> Seen:
        """After the call that returned these."""
        for tensor in pytree.tree_leaves(outputs):
            if isinstance(tensor, Tensor) and tensor in self.states:
                self._end(self.states[tensor])
        return Seen(
            logits=tuple(self._logits),
            products=tuple(self._products),
            scales=tuple(self._scales),
            beside=self._beside.names(self._called),
            factors=self._factored.factors,
            squares=self._squares.sums(pytree.tree_leaves(outputs)),
        )

    @contextmanager
    def follow(self, model: nn.Module) -> Iterator[None]:
        """Knows, within it, in whose call it is."""
        hooks = []
        for path, module in model.named_modules():
            enter, leave = self._enter(path), self._leave
            hooks.append(module.register_forward_pre_hook(enter, prepend=True))
            hooks.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, path: str) -> Any:
        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._paths.append(path)
            self._called.add(path)
            taken = args[0] if args else None
            if path in self._layers and isinstance(taken, Tensor) and taken not in self.states:
                self.states[taken] = _State()  # such as a learned query, or positions

        return enter

    def _leave(self, *_: Any) -> None:
        self._paths.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        if any(tensor in self.states for tensor in given):
            self._beside.meet(func, given, self._paths)
            self._factored.meet(given)
            self._squares.meet(func, args, given, made, self._paths[-1])
            state = self._after(func, args, kwargs or {}, given, result)
            for tensor in made:
                self.states[tensor] = state
        else:
            self._beside.become(given, made)
            self._factored.become(func, args, made)
        return result

    def _after(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[Tensor],
        result: Any,
    ) -> _State:
        packet = func.overloadpacket
        if packet in PRODUCTS:
            left, right = args[PRODUCTS[packet] :][:2]
            return self._product(left, right, float(kwargs.get("alpha", 1.0)))
        if packet in KERNELS:
            scale = kwargs.get("scale")
            size = int(args[0].shape[-1])
            scale = size**-0.5 if scale is None else float(scale)
            self._end_logits(self._product(args[0], args[1], scale))
            self._end(self.states.get(args[2], _State()))
            return self._new()
        if packet in SOFTMAXES:
            self._end_logits(self._of(given))
            return self._new()
        if packet in DIVIDED and has_unit_rows(result):
            return _State(num_normed=1)
        if packet in MULTIPLIED:
            return self._multiplied(args, given, result, is_divided=packet in DIVIDED)
        if packet in (aten.sum, aten.mean):
            return self._summed(args, is_mean=packet is aten.mean)
        if packet in PICKED and args[0] in self.states:
            picked: _State = self.states[args[0]]
            return replace(picked, shared=frozenset())
        if packet in JOINED:
            return self._joined(given)
        if func.is_view or packet in PASSED:
            return self._passed(given)
        for state in self._states(given):
            self._end(state)
        most = max(x.numel() for x in given if x in self.states)
        is_smaller = isinstance(result, Tensor) and result.numel() < most
        return _State() if is_smaller else self._new()

    def _new(self) -> _State:
        """Of what the innermost module has computed."""
        return _State(giver=self._paths[-1])

    def _states(self, given: Iterable[Tensor]) -> list[_State]:
        return [self.states[x] for x in given if x in self.states]

    def _of(self, given: list[Tensor]) -> _State:
        """That of logits, if one is such."""
        states = self._states(given)
        return next((s for s in states if s.size is not None), states[0])

    def _joined(self, given: list[Tensor]) -> _State:
        """One goes on, each other has its end here."""
        state = self._of(given)
        for other in self._states(given):
            if other is not state:
                self._end(other)
        return state

    def _passed(self, given: list[Tensor]) -> _State:
        """That of a whole sum, and not of what is broadcast in it, such as a mean."""
        most = max(x.numel() for x in given if x in self.states)
        whole = [x for x in given if x in self.states and x.numel() == most]
        state = self._of(whole)
        is_whole = {id(self.states[x]) for x in whole}
        for other in self._states(given):
            if other is not state and (other.size is None or id(other) not in is_whole):
                self._end(other)
        return state

    def _product(self, left: Tensor, right: Tensor, scale: float) -> _State:
        """Of two activations; what a parameter is a factor of begins anew."""
        one, other = self.states.get(left), self.states.get(right)
        if one is None or other is None:
            self._end(one or other or _State())
            return self._new()
        for state in (one, other):
            if state.size is not None:  # what comes later may be a factor of both
                self._end(replace(state, factor=None))
        are_known = one.factor is not None and other.factor is not None
        return _State(
            factor=one.factor * other.factor * scale if are_known else None,
            size=int(left.shape[-1]),
            path=self._paths[-1],
            num_normed=one.num_normed + other.num_normed,
        )

    def _multiplied(
        self, args: tuple[Any, ...], given: list[Tensor], result: Tensor, *, is_divided: bool
    ) -> _State:
        state = self._of(given)
        others = [x for x in args[:2] if not isinstance(x, Tensor) or x not in self.states]
        if not others:
            return self._by_value(args[0], args[1], result, is_divided=is_divided)
        other = others[0]
        if isinstance(other, complex) or (isinstance(other, Tensor) and other.numel() != 1):
            return replace(state, factor=None) if is_divided else state
        is_learned = isinstance(other, Tensor) and other.requires_grad
        number = float(other.detach()) if isinstance(other, Tensor) else float(other)
        if is_learned:
            state = replace(state, giver=None)
        if state.factor is None or not number:
            return replace(state, factor=None)
        return replace(state, factor=state.factor / number if is_divided else state.factor * number)

    def _by_value(self, left: Tensor, right: Tensor, result: Tensor, *, is_divided: bool) -> _State:
        """Of two activations; a square is no product of two."""
        one, other = self.states[left], self.states[right]
        state = self._of([left, right])
        if is_divided:
            return replace(state, factor=None, giver=None)
        if are_same(left, right) or state.size is not None:
            return replace(state, giver=None)
        are_known = one.factor is not None and other.factor is not None
        factor = one.factor * other.factor if are_known else None
        dims = [dim for dim in range(-result.ndim, 0) if _has(left, dim) and _has(right, dim)]
        return _State(
            factor=factor,
            before=1.0 if factor is None else factor,
            giver=self._paths[-1],
            scales=() if has_equal_rows(result) else (*_scales_of(one), *_scales_of(other)),
            num_normed=one.num_normed + other.num_normed,
            shared=frozenset(result.stride(dim) for dim in dims),
        )

    def _summed(self, args: tuple[Any, ...], *, is_mean: bool) -> _State:
        tensor, state = args[0], self.states[args[0]]
        dims = args[1] if len(args) > 1 and args[1] is not None else range(tensor.ndim)
        dims = [dims] if isinstance(dims, int) else [*dims] or range(tensor.ndim)
        over = [d for d in dims if tensor.shape[d] > 1 and tensor.stride(d) in state.shared]
        if not over or state.size is not None:
            self._end(state)
            return self._new() if is_mean else _State()
        size = math.prod(tensor.shape[dim] for dim in over)
        factor = state.factor
        if is_mean and factor is not None:
            factor = factor / size
        return _State(factor=factor, size=size, path=self._paths[-1], num_normed=state.num_normed)

    def _end(self, state: _State) -> None:
        """Something that is no plain number takes it."""
        if state.size is not None:
            self._products.append(_product_of(state, state.path))
        else:
            self._scales += _scales_of(state)

    def _end_logits(self, state: _State) -> None:
        if state.size is not None:
            self._logits.append(_product_of(state, self._paths[-1]))
        else:
            self._end(state)


def _product_of(state: _State, path: str) -> Product:
    assert state.size is not None
    return Product(path=path, size=state.size, factor=state.factor, num_normed=state.num_normed)


def _scales_of(state: _State) -> tuple[Scale, ...]:
    if state.size is not None or state.giver is None or state.factor is None:
        return state.scales
    return (*state.scales, Scale(giver=state.giver, factor=state.factor / state.before))


def _has(tensor: Tensor, dim: int) -> bool:
    """Says whether it has more than one value along this axis, counted from the last."""
    return tensor.ndim >= -dim and tensor.shape[dim] > 1
