"""Records the calls that a forward makes with symbols for tensors, and who made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import fx, nn

from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.symbol import Symbol
from hydro_hpc.fusion.traps import Traps, gradients_are_on, patched
from hydro_hpc.nn.randomness import python_random_state

CONTAINERS: Final = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
)
WITHOUT_GRADIENTS: Final = "without_gradients"
MODULE: Final = "module"  # the path of the one whose own code made the call


class CallTracer(fx.Tracer):
    """Symbols in place of all tensors of the inputs; torch's modules and opaque ones are leaves;
    buffers are named, not baked.

    `culprit` is the innermost module in whose forward something was raised; `drawing` are those
    whose own code drew random numbers; `asked` are those that asked what no symbol can answer, and
    what. `overwritten` are symbols that an augmented assignment (`x += y`) replaced, with the new.
    """

    proxy_buffer_attributes = True
    is_shaped = False

    def __init__(self, form: InputForm, opaque: Mapping[str, str], *, with_lines: bool) -> None:
        super().__init__()
        self.form = form
        self.opaque = opaque
        self.record_stack_traces = with_lines
        self.culprit: str | None = None
        self.drawing: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.overwritten: list[tuple[fx.Node, fx.Node]] = []
        self._within = [""]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.opaque:
            return True
        return type(m).__module__.startswith("torch.") and not isinstance(m, CONTAINERS)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        path = self.path_of_module(m)
        before, known = random_state(), len(self.drawing)
        self._within.append(path)
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.culprit is None:
                self.culprit = path
            raise
        finally:
            self._within.pop()
        if len(self.drawing) == known and random_state() != before:
            self.drawing.append(path)
        return output

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,  # noqa: ARG002
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Arguments that are not given keep their Python defaults."""
        symbols = self.inputs()
        own = [self.root] if is_module else []

        def call(*values: Any) -> Any:
            args, kwargs = self.form.arguments(values[len(own) :])
            return root_fn(*own, *args, **kwargs)

        return call, [*own, *symbols]

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        own = {id(tensor) for tensor in [*root.parameters(), *root.buffers()]}
        trap = Traps(self.create_proxy, self.records, own)
        with torch.inference_mode(False), torch.enable_grad(), trap, patched():
            return super().trace(root, concrete_args)

    def records(self) -> bool:
        """Says whether what is called now belongs to the forward that is traced."""
        return True

    def note(self, what: str) -> None:
        """The module whose forward runs now does what cannot be followed."""
        self.asked.append((self._within[-1], what))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Symbol(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.note("decides by the value of a tensor")
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        self.note("iterates over a tensor")
        return super().iter(obj)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta[MODULE] = self._within[-1]
        if not gradients_are_on():
            node.meta[WITHOUT_GRADIENTS] = True
        return node

    def inputs(self) -> list[Any]:
        """One symbol per tensor of the inputs."""
        numbers = range(len(self.form.tensors))
        return [self.create_proxy("placeholder", f"input_{n}", (), {}) for n in numbers]


def runs_without_gradients(node: fx.Node) -> bool:
    """Says whether the call was made where forward had switched gradients off."""
    return bool(node.meta.get(WITHOUT_GRADIENTS, False))


def random_state() -> tuple[Any, ...]:
    """Of all generators that a forward may draw from, to compare."""
    return torch.get_rng_state().numpy().tobytes(), *python_random_state()


def attribute(root: nn.Module, target: str) -> Any:
    """What `target`, a dotted name, is in a model."""
    path, _, name = target.rpartition(".")
    return getattr(root.get_submodule(path), name)
