"""What every layer of a model takes and gives in one forward, and the logits of its attention.

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
SOFTMAX_BACKWARD: Final = torch.ops.aten._softmax_backward_data.default

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Watched:
    """What one forward and its backward showed, by layer in the order of the forward; a layer that
    is called more than once is seen at its first call.
    """

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.outputs: dict[str, Tensor] = {}  # logits among them
        self.gradients: dict[str, Tensor] = {}  # of the loss, by these outputs


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
    """Watches a forward and its backward inside. Attention runs there as plain matrix products."""
    watched = Watched()
    inside: list[str] = []  # the modules whose forward runs, the innermost last
    layers = {id(module): layer for layer, module in layers_of(model).items()}
    with ExitStack() as stack:
        for path, module in model.named_modules():
            for handle in _hook(module, path, layers.get(id(module)), watched, inside):
                stack.callback(handle.remove)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_SoftmaxMode(watched, inside))
        yield watched


def _hook(
    module: nn.Module, path: str, layer: str | None, watched: Watched, inside: list[str]
) -> tuple[RemovableHandle, RemovableHandle]:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        inside.append(path)
        if layer is not None and layer not in watched.calls:
            watched.calls[layer] = tree_map_only(Tensor, _copied, (args, kwargs))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args
        inside.pop()
        found = first_tensor(output)
        if layer is None or layer in watched.outputs or found is None:
            return
        watched.outputs[layer] = _copied(found)
        if found.requires_grad:
            found.register_hook(lambda grad: watched.gradients.update({layer: _copied(grad)}))

    return (  # before the hooks that a surrogate has, so that a call can be made again
        module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True),
        module.register_forward_hook(leave),
    )


class _SoftmaxMode(TorchDispatchMode):
    def __init__(self, watched: Watched, inside: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched, self._inside = watched, inside
        self._layer_of: dict[int, str] = {}  # by the address of a softmax's result

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        output = func(*args, **(kwargs or {}))
        if func in SOFTMAX and self._inside:
            layer = f"{self._inside[-1] or MODEL} {LOGITS}"
            if layer not in self._watched.outputs:
                masked = args[0].detach()
                self._watched.outputs[layer] = torch.where(masked == -torch.inf, 0.0, masked)
                self._layer_of[output.data_ptr()] = layer
        elif func is SOFTMAX_BACKWARD and (layer := self._layer_of.pop(args[1].data_ptr(), "")):
            self._watched.gradients[layer] = _copied(output)
        return output


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone()
