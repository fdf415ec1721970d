"""One forward call of a model on an example, and what it says of sizes and uses."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.tracing.recurrent import recurrent_by_parts
from hydro_hpc.surrogate.tracing.symbols import (
    NOT_USERS,
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
    number where that was asked. `called`: the paths of modules. `inputs`: sizes in the example.
    `attributes` have no holders.
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
    inputs: frozenset[Size]


def followed(model: nn.Module, example: Any) -> Trace:
    """A forward call on the example in numbers: its uses, without symbols. Errors as of `trace`."""
    return _run(SymbolicModel(model, _all_axes(model), ()), example)


def trace(model: nn.Module, example: Any) -> Trace:
    """`example`: what one forward call takes; several arguments are a tuple. ShrinkError if the
    call cannot be traced, with the line that hinders it.
    """
    finite = _finite_axes(model, followed(model, example).uses)
    return _run(SymbolicModel(model, finite, list(attributes_of(model))), example)


def _run(symbolic: SymbolicModel, example: Any) -> Trace:
    arguments = example if isinstance(example, tuple) else (example,)
    environment = symbolic.environment
    with symbolic.in_place(), recurrent_by_parts(symbolic.model), torch.no_grad():
        given = pytree.tree_map_only(Tensor, _static(symbolic), arguments)
        parameters = {n: symbolic.tensors[n] for n, _ in symbolic.model.named_parameters()}
        inputs = [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor)]
        recorder = UseRecorder(parameters, inputs)
        with _said_by_line(), _calls(symbolic.model) as called, symbolic.mode, recorder:
            outputs = symbolic.model(*given)
        uses = {name: frozenset(found) for name, found in recorder.uses(outputs).items()}
    settled = environment.replace
    returned = [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]
    equations = {settled(guard.expr) for guard in environment.guards if _is_equation(guard.expr)}
    return Trace(
        sizes={n: tuple(settled(size) for size in own) for n, own in symbolic.sizes.items()},
        attributes=tuple(
            (replace(attribute, holder={}), settled(size))  # which would keep the model
            for attribute, size in zip(symbolic.attributes, symbolic.integers, strict=True)
        ),
        numbers={s: n for s, n in symbolic.hints.items() if isinstance(s, sympy.Symbol)},
        equations=tuple(e for e in equations if e not in (sympy.true, sympy.false)),
        head_sizes=tuple({settled(expression(size)) for size in recorder.head_sizes}),
        outputs=tuple({settled(expression(size)) for x in returned for size in x.shape}),
        uses=uses,
        lines=_lines(environment),
        given=symbolic.sizes,
        called=frozenset(called),
        inputs=frozenset(expression(size) for x in inputs for size in x.shape),
    )


def _static(symbolic: SymbolicModel) -> Any:
    return lambda tensor: symbolic.mode.from_tensor(tensor, static_shapes=True)


def _all_axes(model: nn.Module) -> dict[str, frozenset[int]]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: frozenset(range(tensor.ndim)) for name, tensor in named}


def _finite_axes(model: nn.Module, uses: Uses) -> dict[str, frozenset[int]]:
    """Axes that no width is on: kernels, and rows that are looked up."""
    finite: dict[str, frozenset[int]] = {}
    for name, parameter in model.named_parameters():
        axes: set[int] = set()
        for use in uses.get(name, ()):
            if use.how is How.TABLE and use.into is not None:
                axes.add(use.into)
            if use.how is How.PRODUCT and parameter.ndim > 2:
                axes |= _kernel(parameter)
        finite[name] = frozenset(axes)
    return finite


def _kernel(weight: Tensor) -> set[int]:
    """Of a convolution's weight; a stack of matrices has none."""
    return set(range(2, weight.ndim))


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


@contextmanager
def _said_by_line() -> Iterator[None]:
    """What a forward call raises while it is traced becomes one sentence with its line."""
    try:
        yield
    except ShrinkError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not f.filename.startswith(NOT_USERS)]
        at = f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else "the model"
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ShrinkError(
            f"the widths cannot be followed through {at}: {said}; give a function with an argument "
            "width= instead of a model"
        ) from error
