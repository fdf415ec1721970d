"""What one forward of a user's model does, as a graph of calls; or why that cannot be known.

The trace says what happened with symbolic inputs and the present training flags. What Python does
beside it (reads a tensor's value, writes an attribute, draws a random number) is found, because a
graph would freeze it: the module that does it becomes *opaque*, one call of the graph, and is not
looked into. Where that is the model itself, there is no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from torch import Tensor, fx, nn

from hydro_hpc.fusion.copying import deep_copy, kept_results
from hydro_hpc.fusion.hidden import hidden_behaviour
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.python_state import first_change, python_state
from hydro_hpc.fusion.shaped_tracer import ShapedTracer
from hydro_hpc.fusion.tracer import (
    CallTracer,
    attribute,
    random_state,
    runs_without_gradients,
)
from hydro_hpc.fusion.writes import find_lost_write
from hydro_hpc.nn.members import Refused

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
CONSTANT: Final = "_tensor_constant"  # where fx keeps tensors that forward made


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The calls of one forward; `opaque` says of each module that is not looked into why.

    `constants` are the tensors that forward takes from elsewhere than parameters, buffers and
    inputs. If `is_shaped`, other shapes of the inputs may lead to other calls.
    """

    graph: fx.Graph
    opaque: Mapping[str, str]
    constants: Mapping[str, Tensor]
    is_shaped: bool

    def text(self) -> str:
        """Equal for two models if they make the same calls, numbers and settings included."""
        return "\n".join(
            f"{n.op} {n.target} {n.args} {n.kwargs} {runs_without_gradients(n)}"
            for n in self.graph.nodes
        )


class Untraceable(Refused):
    """The model's own forward asks of a symbol what only a tensor can answer."""


class _Opaque(Exception):  # noqa: N818 - a finding, not an error
    """The module at `path` cannot be looked into; `reason` says why."""

    def __init__(self, path: str, reason: Refused) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


def trace_model(
    model: nn.Module,
    form: InputForm,
    *,
    closed: Mapping[str, str] = NOTHING,
    with_lines: bool = False,
    between: Callable[[str], None] = lambda _: None,
) -> Trace:
    """The calls of the model's forward for such inputs, under its present training flags; `Refused`
    if the model's own forward cannot be looked into. The model is not changed. `closed` are modules
    that are opaque whatever they do. `with_lines` adds the source lines of calls, at four times the
    cost. `between` is called, with the name of what follows, where tracing may pause.
    """
    loose, shaped = (
        partial(kind, form, with_lines=with_lines) for kind in (CallTracer, ShapedTracer)
    )
    try:
        first = _trace_around(model, loose, closed, between)
    except Untraceable:
        return _trace_around(model, shaped, closed, between)
    if len(first.opaque) == len(closed):
        return first
    try:
        second = _trace_around(model, shaped, closed, between)
    except Refused:
        return first
    return second if len(second.opaque) < len(first.opaque) else first


def _trace_around(
    model: nn.Module,
    make_tracer: Callable[..., CallTracer],
    closed: Mapping[str, str],
    between: Callable[[str], None],
) -> Trace:
    """A trace that leaves opaque modules closed."""
    opaque = {**closed, **hidden_behaviour(model)}
    while True:
        between("trace")
        within = outermost(opaque)
        if "" in within:
            raise Refused(within[""])
        try:
            return _trace_once(model, make_tracer(within), between)
        except _Opaque as found:
            if not found.path or found.path in within:
                raise found.reason from found
            opaque = {**within, found.path: str(found.reason)}


def outermost(opaque: Mapping[str, str]) -> dict[str, str]:
    """Without what lies inside another opaque module."""
    return {
        path: reason
        for path, reason in opaque.items()
        if not any(path.startswith(f"{other}.") for other in opaque)
    }


def _trace_once(model: nn.Module, tracer: CallTracer, between: Callable[[str], None]) -> Trace:
    shared = [*model.parameters(), *model.buffers(), *kept_results(model)]
    specimen = deep_copy(model, {id(tensor): tensor for tensor in shared})
    between("state before")
    before, randomness = python_state(specimen), random_state()
    between("calls")
    try:
        graph = tracer.trace(specimen)
    except Exception as error:  # the user's forward ran on symbols: anything may be raised
        path = tracer.culprit or ""
        reason = " ".join(str(error).split())[:160]
        what = f"{_of(specimen, path)} cannot be traced ({type(error).__name__}: {reason})"
        raise _Opaque(path, Untraceable(what)) from error
    between("state after")
    if random_state() != randomness:
        path = tracer.drawing[0] if tracer.drawing else ""
        why = f"{_of(specimen, path)} draws random numbers outside torch"
        raise _Opaque(path, Refused(why))
    if tracer.asked:  # and went on when it got no answer
        path, what = tracer.asked[0]
        raise _Opaque(path, Untraceable(f"{_of(specimen, path)} {what}"))
    constants = _constants(graph, specimen)
    if written := find_lost_write(graph, specimen, tracer.overwritten):
        path, what = written
        raise _Opaque(path, Refused(f"{_of(specimen, path)} {what}"))
    changed = first_change(before, python_state(specimen), apart=CONSTANT)
    if changed:
        path, _, attribute = changed.rpartition(".")
        why = f"{_of(specimen, path)} writes to the attribute '{attribute}'"
        raise _Opaque(path, Refused(why))
    return Trace(graph=graph, opaque=tracer.opaque, constants=constants, is_shaped=tracer.is_shaped)


def _constants(graph: fx.Graph, model: nn.Module) -> dict[str, Tensor]:
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    targets = {str(n.target) for n in graph.nodes if n.op == "get_attr"} - known
    return {target: attribute(model, target) for target in sorted(targets)}


def _of(model: nn.Module, path: str) -> str:
    """How messages name the forward of a part of the model."""
    return f"forward of {type(model.get_submodule(path)).__name__} '{path}'" if path else "forward"
