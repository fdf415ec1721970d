"""Does a traced forward write into its inputs? Slots may share one batch, so it must not.

Augmented assignment (`x += y`) is not seen here: to a symbol it is an addition, and verification
finds out if that makes a difference.
"""

from __future__ import annotations

import inspect
from typing import Final

from torch import fx, nn

from hydro_hpc.fusion.rules import describe
from hydro_hpc.nn.members import Refused

# Calls whose result may be the memory that they were given.
VIEWS: Final = frozenset(
    {
        "alpha_dropout", "bfloat16", "broadcast_to", "chunk", "contiguous", "detach", "diagonal",
        "double", "dropout", "dropout1d", "dropout2d", "dropout3d", "einsum", "expand", "expand_as",
        "feature_alpha_dropout", "flatten", "float", "getattr", "getitem", "half", "int", "long",
        "movedim", "narrow", "permute", "pixel_shuffle", "pixel_unshuffle", "reshape", "select",
        "split", "squeeze", "swapaxes", "swapdims", "t", "to", "transpose", "type", "type_as",
        "unbind", "unflatten", "unsqueeze", "view", "view_as",
    }
)  # fmt: skip
VIEW_MODULES: Final = (
    nn.Flatten,
    nn.Identity,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Unflatten,
    nn.modules.dropout._DropoutNd,
)


def refuse_writes_to_inputs(graph: fx.Graph, model: nn.Module) -> None:
    """`Refused` if a call may write into memory of an input."""
    given: set[fx.Node] = set()
    for node in graph.nodes:
        writes = _writes(node, model)
        touches = node.op == "placeholder" or bool(given.intersection(node.all_input_nodes[:1]))
        if writes and touches:
            raise Refused(f"{describe(node)} writes into the model's input")
        if touches and (node.op == "placeholder" or _is_view(node, model)):
            given.add(node)


def _writes(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    if node.op == "call_function":
        return _is_asked_to_write(node)
    return False


def _is_asked_to_write(node: fx.Node) -> bool:
    """`inplace=True`, by name or by position."""
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except ValueError:  # a builtin: those have no such argument
        return False
    return given.arguments.get("inplace", False) is not False


def _is_view(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), VIEW_MODULES)
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name in VIEWS
