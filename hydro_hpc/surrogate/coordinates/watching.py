"""What every layer of a model gives in one forward, what its modules take, and the logits of its
attention.

Layers are modules without children, or with parameters of their own. Logits are what goes into a
softmax inside the model; they are seen below autograd, in whatever way attention is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from hydro_hpc.surrogate.coordinates.records import LOGITS, MODEL

SOFTMAX: Final = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Watched:
    """What one forward showed; a module that is called more than once is seen at its first call."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}  # of all modules with parameters inside, by path
        self.outputs: dict[str, Tensor] = {}  # of layers, in the order of the forward, and logits
        # Of logits: for each module around them, the innermost first, which of its softmaxes it is.
        self.softmax: dict[str, dict[str, int]] = {}


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """By path; the model itself is MODEL, whether it has parameters of its own or not."""
    return {
        path or MODEL: module
        for path, module in model.named_modules()
        if "parametrizations" not in path
        and (not path or not [*module.children()] or [*module.parameters(recurse=False)])
    }


def first_tensor(tree: Any) -> Tensor | None:
    """The first of floating numbers."""
    leaves = tree_leaves(tree)
    return next((x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()), None)


@contextmanager
def watch(model: nn.Module) -> Iterator[Watched]:
    """Watches a forward inside. Attention runs there as plain matrix products."""
    watched = Watched()
    inside: list[_Inside] = []  # the modules whose forward runs, the innermost last
    layers = {id(module): layer for layer, module in layers_of(model).items()}
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if "parametrizations" not in path:
                for handle in _hook(module, path, layers.get(id(module)), watched, inside):
                    stack.callback(handle.remove)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_SoftmaxMode(watched, inside))
        yield watched


class _Inside:
    def __init__(self, path: str) -> None:
        self.path, self.num_softmaxes = path, 0


def _hook(
    module: nn.Module, path: str, layer: str | None, watched: Watched, inside: list[_Inside]
) -> tuple[RemovableHandle, RemovableHandle]:
    has_parameters = any(True for _ in module.parameters())

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        inside.append(_Inside(path))
        if has_parameters and path not in watched.calls:
            watched.calls[path] = tree_map_only(Tensor, _copied, (args, kwargs))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args
        inside.pop()
        found = first_tensor(output)
        if layer is not None and layer not in watched.outputs and found is not None:
            watched.outputs[layer] = _copied(found)

    return (  # before the hooks that a surrogate has, so that a call can be made again
        module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True),
        module.register_forward_hook(leave),
    )


class _SoftmaxMode(TorchDispatchMode):
    def __init__(self, watched: Watched, inside: list[_Inside]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched, self._inside = watched, inside

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        output = func(*args, **(kwargs or {}))
        if func in SOFTMAX and self._inside:
            layer = f"{self._inside[-1].path or MODEL} {LOGITS}"
            if layer not in self._watched.outputs:
                masked = args[0].detach()
                self._watched.outputs[layer] = torch.where(masked == -torch.inf, 0.0, masked)
                around = {each.path: each.num_softmaxes for each in reversed(self._inside)}
                self._watched.softmax[layer] = around
            for each in self._inside:
                each.num_softmaxes += 1
        return output


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone()
