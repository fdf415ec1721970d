"""One forward call of a model on an example, and what it says of sizes and uses."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

from hydro_hpc.surrogate.axes import may_be_weight
from hydro_hpc.surrogate.layouts import places_of
from hydro_hpc.surrogate.tracing.bilinear import bilinear_by_parts
from hydro_hpc.surrogate.tracing.caches import without_caches
from hydro_hpc.surrogate.tracing.calling import ValueAskedError, called, said_by_line
from hydro_hpc.surrogate.tracing.recurrent import recurrent_by_parts
from hydro_hpc.surrogate.tracing.symbols import (
    Attribute,
    Size,
    SymbolicModel,
    attributes_of,
    expression,
)
from hydro_hpc.surrogate.tracing.uses import How, Use, UseRecorder

Uses = Mapping[str, frozenset[Use]]  # by the first name of a parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Sizes are expressions of symbols, by the first name of a parameter or buffer; `numbers` are
    what the symbols stand for. `equations` hold at these and are to hold at others. `head_sizes`
    are those over which activations are multiplied, `outputs` those of what the model returns.
    `given` are the sizes as symbols of their own, and `lines` say of one that turned out to be a
    number where that was asked. `called`: the paths of modules. `factors`: sizes, in order, that
    were one axis of an activation. `attributes` have no holders. `fixed` are uses of buffers.
    `taken`: sizes that products take of parameters, and of buffers where a parameter gives them.
    """

    sizes: Mapping[str, tuple[Size, ...]]
    attributes: tuple[tuple[Attribute, Size], ...]
    numbers: Mapping[sympy.Symbol, int]
    equations: tuple[sympy.Expr, ...]
    head_sizes: tuple[Size, ...]
    outputs: tuple[Size, ...]
    uses: Uses
    lines: Mapping[Size, str]
    given: Mapping[str, tuple[Size, ...]]
    called: frozenset[str]
    factors: tuple[tuple[Size, ...], ...]
    fixed: Uses
    taken: tuple[Size, ...]


def followed(model: nn.Module, example: Any) -> Trace:
    """A forward call on the example in numbers: its uses, without symbols. Errors as of `trace`."""
    try:
        return _followed(model, example)
    except ValueAskedError:
        if not model.training:
            raise
    with _evaluating(model):
        return _followed(model, example)


def _followed(model: nn.Module, example: Any) -> Trace:
    return _run(SymbolicModel(model, _all_axes(model), ()), example)


def trace(model: nn.Module, example: Any) -> Trace:
    """`example`: what one forward call takes; several arguments are a tuple, or a dict by name.
    ShrinkError if the call cannot be traced, with the line that hinders it.
    """
    try:
        return _traced(model, example)
    except ValueAskedError:
        if not model.training:
            raise
    with _evaluating(model):  # where layers are not dropped at random
        return _traced(model, example)


def _traced(model: nn.Module, example: Any) -> Trace:
    finite = _finite_axes(model, _followed(model, example).uses)
    return _run(SymbolicModel(model, finite, list(attributes_of(model))), example)


@contextmanager
def _causality_as_said() -> Iterator[None]:
    """Torch's transformers look at a mask's values to choose a kernel; here they do as told."""
    before = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = _as_said
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = before


def _as_said(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    del mask, size
    return bool(is_causal)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def _run(symbolic: SymbolicModel, example: Any) -> Trace:
    environment = symbolic.environment
    weights = {
        name
        for name, places in places_of(symbolic.model).items()
        if any(place.out_in is not None and not place.is_table for place in places)
    }
    with (
        said_by_line(symbolic.model, example),
        without_caches(symbolic.model),
        symbolic.in_place(),
        recurrent_by_parts(symbolic.model),
        bilinear_by_parts(symbolic.model),
        torch.no_grad(),
    ):
        given = pytree.tree_map_only(Tensor, _static(symbolic), example)
        parameters = {n: symbolic.tensors[n] for n, _ in symbolic.model.named_parameters()}
        inputs = [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor)]
        others = {n: x for n, x in symbolic.tensors.items() if n not in parameters}
        buffers = {n: x for n, x in others.items() if may_be_weight(x)}
        recorder = UseRecorder(parameters, inputs, weights=weights, buffers=buffers)
        with (
            _causality_as_said(),
            _calls(symbolic.model) as paths,
            enable_python_dispatcher(),  # of torch's functions that are written twice, with symbols
            symbolic.mode,
            recorder,
        ):
            outputs = called(symbolic.model, given)
        uses = {name: frozenset(found) for name, found in recorder.uses(outputs).items()}
    settled = environment.replace
    returned = [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]
    equations = {settled(guard.expr) for guard in environment.guards if _is_equation(guard.expr)}
    sizes = {n: tuple(settled(size) for size in own) for n, own in symbolic.sizes.items()}
    return Trace(
        sizes=sizes,
        attributes=tuple(
            (replace(attribute, holder={}), settled(size))  # which would keep the model
            for attribute, size in zip(symbolic.attributes, symbolic.integers, strict=True)
        ),
        numbers={s: n for s, n in symbolic.hints.items() if isinstance(s, sympy.Symbol)},
        equations=tuple(e for e in equations if e not in (sympy.true, sympy.false)),
        head_sizes=tuple({settled(expression(size)) for size in recorder.head_sizes}),
        outputs=tuple({settled(expression(size)) for x in returned for size in x.shape}),
        uses={name: own for name, own in uses.items() if name in parameters},
        lines=_lines(environment),
        given=symbolic.sizes,
        called=frozenset(paths),
        factors=tuple(
            dict.fromkeys(
                tuple(settled(expression(size)) for size in each) for each in recorder.factors
            )
        ),
        taken=_taken(recorder, parameters, uses, sizes, settled),
        fixed={name: own for name, own in uses.items() if name in buffers},
    )


def _taken(
    recorder: UseRecorder,
    parameters: Collection[str],
    uses: Uses,
    sizes: Mapping[str, tuple[Size, ...]],
    settled: Callable[[Size], Size],
) -> tuple[Size, ...]:
    given = {sizes[n][u.out] for n in parameters for u in uses.get(n, ()) if u.out is not None}
    taken = {(name in parameters, settled(expression(size))) for name, size in recorder.taken()}
    return tuple({size for is_drawn, size in taken if is_drawn or size in given})


def _static(symbolic: SymbolicModel) -> Any:
    return lambda tensor: symbolic.mode.from_tensor(tensor, static_shapes=True)


def _all_axes(model: nn.Module) -> dict[str, frozenset[int]]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: frozenset(range(tensor.ndim)) for name, tensor in named}


def _finite_axes(model: nn.Module, uses: Uses) -> dict[str, frozenset[int]]:
    """Axes that no width is on: kernels, and rows that are looked up."""
    finite: dict[str, frozenset[int]] = {}
    places = places_of(model)
    for name, parameter in model.named_parameters():
        axes = {0} if any(place.is_table for place in places[name]) else set[int]()
        for use in uses.get(name, ()):
            if use.how is How.TABLE and use.into is not None:
                axes.add(use.into)
            if use.is_convolution:
                axes |= set(range(2, parameter.ndim))
        finite[name] = frozenset(axes)
    return finite


def _is_equation(expr: sympy.Expr) -> bool:
    return isinstance(expr, sympy.Eq)


def _lines(environment: ShapeEnv) -> dict[Size, str]:
    lines: dict[Size, str] = {}
    for guard in environment.guards:
        where = guard.sloc.framework_loc
        if isinstance(where, traceback.FrameSummary):
            for symbol in guard.expr.free_symbols:
                if environment.replace(symbol).is_number:
                    lines.setdefault(symbol, f"{Path(where.filename).name}, line {where.lineno}")
    return lines


@contextmanager
def _calls(model: nn.Module) -> Iterator[set[str]]:
    """The paths of modules that are called within it."""
    called: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: called.add(path))
        for path, module in model.named_modules(remove_duplicate=False)
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()
