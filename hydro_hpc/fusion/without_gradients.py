"""Calls of a graph that were made where a user's forward had switched gradients off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from hydro_hpc.fusion.separate import Method


class WithoutGradients(nn.Module):
    """A part that is not its child: it may be called with gradients elsewhere."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self._call = part.__call__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self._call(*args, **kwargs)


def switch_gradients_off(node: fx.Node, parts: dict[str, Any]) -> None:
    """Makes `node`, of a graph with these parts, run so."""
    if node.op == "call_module":
        name = f"{node.target}_without_gradients"
        parts[name] = WithoutGradients(parts[str(node.target)])
        node.target = name
        return
    call: Callable[..., Any]
    if node.op == "call_method":
        call = Method(str(node.target))
        node.op = "call_function"
    else:
        assert callable(node.target)
        call = node.target
    node.target = _without_gradients(call)


def _without_gradients(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def apply(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return call(*args, **kwargs)

    return apply
