"""Tracing with the shapes of real inputs: branches on sizes, loops over time and tensors made from
sizes are followed as they go for these shapes, and the graph holds for these shapes alone.

Every symbol has an example: a tensor without memory (torch's FakeTensor) that says what its shape
would be. Values stay unknown.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.copying import kept_results
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.symbol import Symbol
from hydro_hpc.fusion.tracer import CallTracer, attribute

FACTS: Final = frozenset({"shape", "dtype", "device", "ndim", "is_cuda"})
UNKNOWN: Final = object()


class ShapedProxy(Symbol):
    """A symbol that knows its shape."""

    def __init__(self, node: fx.Node, tracer: ShapedTracer, example: Any) -> None:
        super().__init__(node, tracer)
        self.example = example

    def __getattr__(self, name: str) -> Any:
        if name in FACTS and isinstance(self.__dict__.get("example"), Tensor):
            return getattr(self.example, name)
        return super().__getattr__(name)

    def size(self, dim: int | None = None) -> Any:
        return self.known.size() if dim is None else self.known.size(dim)

    def dim(self) -> int:
        return self.known.dim()

    def numel(self) -> int:
        return self.known.numel()

    def is_floating_point(self) -> bool:
        return self.known.is_floating_point()

    def __len__(self) -> int:
        return len(self.example) if isinstance(self.example, tuple | list) else len(self.known)

    def __iter__(self) -> Iterator[Any]:
        return iter([operator.getitem(self, place) for place in range(len(self))])

    def stands_for(self) -> Any:
        if self.example is UNKNOWN:
            self.refuse("asks for the class of a traced value")
        return self.example

    @property
    def known(self) -> Tensor:
        """The example of a tensor whose shape does not depend on values."""
        if not isinstance(self.example, Tensor):
            self.refuse("needs a shape that is not known before the values are")
        return self.example


class ShapedTracer(CallTracer):
    """As its base, with an example for every symbol."""

    is_shaped = True

    def __init__(self, form: InputForm, opaque: Mapping[str, str], *, with_lines: bool) -> None:
        super().__init__(form, opaque, with_lines=with_lines)
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._is_computing = False
        self._stand_ins: dict[str, nn.Module] = {}

    def inputs(self) -> list[Any]:
        with self._fake:
            examples = [row.new_empty(row.shape) for row in self.form.rows()]
        return [
            self._symbol("placeholder", f"input_{n}", (), {}, example)
            for n, example in enumerate(examples)
        ]

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any
    ) -> Any:
        return self._symbol(kind, target, args, kwargs, self._example(kind, target, args, kwargs))

    def records(self) -> bool:
        return not self._is_computing

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._is_computing:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if self._is_computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _symbol(self, kind: str, target: Any, args: Any, kwargs: Any, example: Any) -> ShapedProxy:
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs))
        return ShapedProxy(node, self, example)

    def _example(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """What the call gives for the examples of its arguments."""
        if kind == "get_attr":
            self._is_computing = True
            try:
                return attribute(self.root, target)
            finally:
                self._is_computing = False
        given = pytree.tree_map_only(ShapedProxy, lambda proxy: proxy.example, (args, kwargs))
        if any(leaf is UNKNOWN for leaf in pytree.tree_leaves(given)):
            return UNKNOWN
        self._is_computing = True
        try:
            call = self._callable(kind, target)
            with self._fake, torch.random.fork_rng(devices=[]):
                return call(*given[0], **given[1])
        except Exception:  # what torch cannot say without values, or the user's own error
            return UNKNOWN
        finally:
            self._is_computing = False

    def _callable(self, kind: str, target: Any) -> Callable[..., Any]:
        if kind == "call_method":
            return lambda x, *args, **kwargs: getattr(x, target)(*args, **kwargs)
        if kind == "call_function":
            return target  # type: ignore[no-any-return]
        if target not in self._stand_ins:  # a copy: a module may write to its buffers
            module = self.root.get_submodule(target)
            shared = [*module.parameters(), *kept_results(module)]
            memo: dict[int, object] = {id(tensor): tensor for tensor in shared}
            self._stand_ins[target] = copy.deepcopy(module, memo)
        return self._stand_ins[target]
