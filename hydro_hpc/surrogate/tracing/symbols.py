"""A model with symbols in place of its sizes, for the time of one forward call.

Every axis of its parameters and buffers, and every integer that its modules keep, is a symbol of
torch's `ShapeEnv`; nothing is computed but shapes. What the call asks of sizes comes back as
equations between symbols.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, TypeAlias

import sympy
import torch
from torch import SymFloat, SymInt, Tensor, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy.functions import FloorDiv

from hydro_hpc.surrogate.tracing.calling import NOT_USERS

Size: TypeAlias = sympy.Expr  # of an axis or an attribute

OF_TORCH: Final = frozenset(
    {
        *("in_features", "out_features", "in_channels", "out_channels", "groups"),
        *("num_features", "num_channels", "num_groups", "num_parameters", "normalized_shape"),
        *("embedding_dim", "embed_dim", "num_heads", "head_dim", "kdim", "vdim"),
        *("hidden_size", "input_size", "proj_size", "in1_features", "in2_features"),
        *("d_model", "nhead", "unflattened_size"),
    }
)
"""Attributes of torch's own modules that are sizes of channels, or counts of groups and heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An integer that a module, or an object that it holds, keeps: `holder[key]`, and of a tuple
    or list the one at `index`. `path` is the module's.
    """

    path: str
    holder: dict[str, Any]
    key: str
    index: int | None
    value: int


class _Environment(ShapeEnv):
    """Its equations say which line of the user's code asked for them. `hints` are what symbols
    stand for.
    """

    hints: Mapping[Size, int]

    def evaluate_expr(self, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        """What cannot shrink is a number from here on: nothing is to be found out about it, and
        expressions of such (an image in windows) soon take minutes.
        """
        if isinstance(orig_expr, sympy.Basic):
            for symbol in _finite_symbols(ShapeEnv.replace(self, orig_expr), self.hints):
                super().evaluate_expr(sympy.Eq(symbol, self.hints[symbol]))
        return super().evaluate_expr(orig_expr, *args, **kwargs)

    def _get_user_frame(self) -> FrameType | None:
        frame = inspect.currentframe()
        while frame is not None and frame.f_code.co_filename.startswith(NOT_USERS):
            frame = frame.f_back
        return frame


class SymbolicModel:
    """`sizes` by the first name of a parameter or buffer, `integers` in the order of `attributes`;
    both as first given: `ShapeEnv.replace` says what they turned out to be.
    """

    def __init__(
        self,
        model: nn.Module,
        fixed: Mapping[str, frozenset[int]],
        attributes: Sequence[Attribute],
    ) -> None:
        """`fixed` axes of parameters keep their numbers: kernels, rows of a table."""
        self.model = model
        self.environment = _Environment(duck_shape=False)
        self.hints: dict[Size, int] = {}
        self.environment.hints = self.hints
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        self.mode.cache_enabled = False  # keys and entries of symbols cost more than the calls
        self.sizes: dict[str, tuple[Size, ...]] = {}
        self.attributes = attributes
        self.integers: list[Size] = []
        self.tensors: dict[str, Tensor] = {}
        self._fixed = fixed

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has symbols; after it, all that it had before."""
        before = [(holder, dict(holder)) for holder in self._holders()]
        try:
            self._put_tensors()
            self._put_integers()
            with _float_is_no_size():
                yield
        finally:
            for holder, own in before:  # also what the call itself put there
                holder.clear()
                holder.update(own)

    def _holders(self) -> Iterator[dict[str, Any]]:
        for module in self.model.modules():
            yield from (vars(module), module._parameters, module._buffers)
        yield from (attribute.holder for attribute in self.attributes)

    def _put_tensors(self) -> None:
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        fakes = {id(tensor): self._fake(name, tensor) for name, tensor in named}
        for holder, key in _places(self.model):
            holder[key] = fakes[id(holder[key])]
        for module in self.model.modules():
            refresh(module)

    def _fake(self, name: str, tensor: Tensor) -> Tensor:
        fixed = self._fixed.get(name, frozenset())
        kinds = [
            DimDynamic.STATIC if axis in fixed else DimDynamic.DYNAMIC
            for axis in range(tensor.ndim)
        ]
        fake = self.mode.from_tensor(
            tensor.detach(),
            source=ConstantSource(f"tensor_{len(self.tensors)}"),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds),
        )
        self.tensors[name] = fake
        self.sizes[name] = tuple(expression(size) for size in fake.shape)
        for size, number in zip(self.sizes[name], tensor.shape, strict=True):
            self.hints[size] = number
        return fake

    def _put_integers(self) -> None:
        for number, attribute in enumerate(self.attributes):
            value = self._integer(attribute.value, f"integer_{number}")
            self.integers.append(expression(value))
            self.hints[self.integers[-1]] = attribute.value
            put(attribute, value)

    def _integer(self, value: int, name: str) -> int | SymInt:
        source = ConstantSource(name)
        symbol = self.environment.create_symbol(value, source, dynamic_dim=DimDynamic.DYNAMIC)
        return self.environment.create_symintnode(symbol, hint=value, source=source)


def _finite_symbols(expr: Size, hints: Mapping[Size, int]) -> Iterator[sympy.Symbol]:
    """Those by which a number is divided without a rest, and those whose product or sum is a
    number, as sizes do not grow.
    """
    for division in expr.atoms(FloorDiv):
        number, divisor = division.args
        if number.is_number and number % divisor.xreplace(hints) == 0:
            yield from divisor.free_symbols
    if isinstance(expr, sympy.Eq) and 0 not in expr.args and expr.xreplace(hints) == sympy.true:
        quotient = expr.rhs / expr.lhs
        is_growing = _grows_with_all(quotient) or _grows_with_all(1 / quotient)
        if is_growing and len(quotient.free_symbols) > 1:
            yield from quotient.free_symbols


def _grows_with_all(expr: Size) -> bool:
    """Says whether it is a sum of products of sizes, and of nothing else."""
    terms = sympy.Add.make_args(sympy.expand(expr))
    powers = [factor.as_base_exp() for term in terms for factor in sympy.Mul.make_args(term)]
    return all(
        base > 0 if base.is_number else base.is_Symbol and power > 0 for base, power in powers
    )


def attributes_of(model: nn.Module) -> Iterator[Attribute]:
    """Those above 1, each once however many modules share the object that keeps it."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        is_torchs = type(module).__module__.startswith("torch.nn.modules")
        own = vars(module)
        for key, value in own.items():
            if is_torchs and key not in OF_TORCH:
                continue
            yield from _integers(path, own, key, value)
        for name, value in [] if is_torchs else list(own.items()):
            if name.startswith("_"):
                continue
            if _is_plain(value) and id(value) not in seen:
                seen.add(id(value))
                for key, inner in vars(value).items():
                    yield from _integers(path, vars(value), key, inner)
            if type(value) is dict and id(value) not in seen and all(type(k) is str for k in value):
                seen.add(id(value))
                for key, inner in value.items():
                    yield from _integers(path, value, key, inner)


def _integers(path: str, holder: dict[str, Any], key: str, value: Any) -> Iterator[Attribute]:
    if key.startswith("_"):
        return
    if type(value) is int and value > 1:
        yield Attribute(path=path, holder=holder, key=key, index=None, value=value)
    elif type(value) in (tuple, list, torch.Size) and value and all(type(x) is int for x in value):
        for index, each in enumerate(value):
            if each > 1:
                yield Attribute(path=path, holder=holder, key=key, index=index, value=each)


def _is_plain(value: object) -> bool:
    """Says whether it is an object of settings: with attributes, and nothing of torch."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, nn.Module | Tensor | type)
        and (not callable(value) and not type(value).__module__.startswith(("torch", "builtins")))
    )


def put(attribute: Attribute, value: Any) -> None:
    """Sets the attribute in its holder."""
    if attribute.index is None:
        attribute.holder[attribute.key] = value
        return
    before = attribute.holder[attribute.key]
    values = list(before)
    values[attribute.index] = value
    attribute.holder[attribute.key] = values if type(before) is list else tuple(values)


def refresh(module: nn.Module) -> None:
    """A recurrent module also keeps its weights in a list."""
    if isinstance(module, nn.RNNBase):
        own = module._parameters
        module.__dict__["_flat_weights"] = [own[name] for name in module._flat_weights_names]


def expression(size: int | SymInt) -> Size:
    return size.node.expr if isinstance(size, SymInt) else sympy.Integer(size)


def _places(model: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    for module in model.modules():
        for holder in (module._parameters, module._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    yield holder, key


@contextmanager
def _float_is_no_size() -> Iterator[None]:
    """`math.sqrt(self.width)` asks for a value that may be another at another width, unlike
    `range(self.layers)`: it makes no equation.
    """
    before = SymFloat.__float__
    SymFloat.__float__ = SymInt.__float__ = _value  # type: ignore[method-assign,attr-defined]
    try:
        yield
    finally:
        SymFloat.__float__ = before  # type: ignore[method-assign]
        del SymInt.__float__  # type: ignore[attr-defined]


def _value(symbolic: SymInt | SymFloat) -> float:
    return float(symbolic.node.hint)
