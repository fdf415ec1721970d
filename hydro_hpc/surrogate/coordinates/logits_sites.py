"""Where the parameters of attention act on its logits: in the module that computes them, or the
next around it that has these parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from hydro_hpc.surrogate.coordinates.records import Form
from hydro_hpc.surrogate.coordinates.sites import Pulled, Site, first_names, leaf_of, unit
from hydro_hpc.surrogate.coordinates.watching import SOFTMAX, Watched, first_tensor

SOFTMAX_BACKWARD: Final = torch.ops.aten._softmax_backward_data.default


def logits_sites(model: nn.Module, watched: Watched) -> Iterator[Site]:
    for layer, around in watched.softmax.items():
        for path, number in around.items():
            if path in watched.calls and (site := _site(model, path, number, layer, watched)):
                yield site
                break


def _site(model: nn.Module, path: str, number: int, layer: str, watched: Watched) -> Site | None:
    """None if the parameters of this module do not act on these logits."""
    module = model.get_submodule(path)
    learning = {n: p for n, p in module.named_parameters() if p.requires_grad}
    leaves = {name: leaf_of(parameter) for name, parameter in learning.items()}
    first = first_names(model)
    args, kwargs = tree_map_only(Tensor, unit, watched.calls[path])
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    mode = _Injecting(number)
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), mode:
        found = torch.func.functional_call(module, {**leaves, **buffers}, args, kwargs)
    y, shape = first_tensor(found), tuple(watched.outputs[layer].shape)
    if y is None or not y.requires_grad or mode.shape != shape:
        return None

    def pull(gradient: Tensor) -> Pulled:
        mode.gradient = gradient
        with mode:
            return torch.autograd.grad(
                y, [*leaves.values()], torch.zeros_like(y), retain_graph=True, allow_unused=True
            )

    pulled = pull(torch.ones(shape, dtype=y.dtype, device=y.device))
    if not any(g is not None and bool(g.any()) for g in pulled):
        return None
    return Site(
        part=layer,
        names=tuple(first[id(parameter)] for parameter in learning.values()),
        form=Form(parameters=(), taken=(), given=shape),
        shape=shape,
        gain=None,
        pull=pull,
        like=y.detach(),
    )


class _Injecting(TorchDispatchMode):
    """Puts a gradient in the place of that of one softmax's input."""

    def __init__(self, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shape: tuple[int, ...] | None = None
        self.gradient: Tensor | None = None
        self._number, self._num_seen, self._result = number, 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        output = func(*args, **(kwargs or {}))
        if func in SOFTMAX:
            if self._num_seen == self._number:
                self.shape, self._result = tuple(output.shape), output.data_ptr()
            self._num_seen += 1
        elif func is SOFTMAX_BACKWARD and args[1].data_ptr() == self._result:
            assert self.gradient is not None
            masked = args[1] == 0
            return self.gradient.to(output).masked_fill(masked, 0.0)
        return output
