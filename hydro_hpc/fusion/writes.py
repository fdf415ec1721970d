"""What a traced forward writes over, and whether a bundle would lose that.

A call may write into memory that others have under another name. Of the stack of all slots, what is
a view for one trial may be a copy, a tensor that forward makes is made once, and an augmented
assignment (`x += y`) is a new value; so a write is kept only where nobody else reads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Final

from torch import fx, nn

from hydro_hpc.fusion.rules import describe
from hydro_hpc.fusion.tracer import MODULE
from hydro_hpc.nn.members import Refused

# Calls whose result may be the memory that they were given.
VIEWS: Final = frozenset(
    {
        "alpha_dropout", "as_strided", "atleast_1d", "atleast_2d", "atleast_3d", "bfloat16",
        "broadcast_to", "chunk", "contiguous", "cpu", "detach", "diagonal", "double", "dropout",
        "dropout1d", "dropout2d", "dropout3d", "einsum", "expand", "expand_as",
        "feature_alpha_dropout", "flatten", "float", "getitem", "half", "hsplit", "int", "long",
        "moveaxis", "movedim", "narrow", "permute", "pixel_shuffle", "pixel_unshuffle", "ravel",
        "reshape", "reshape_as", "select", "split", "squeeze", "swapaxes", "swapdims", "t",
        "tensor_split", "to", "transpose", "type", "type_as", "unbind", "unflatten", "unfold",
        "unsqueeze", "view", "view_as", "vsplit",
    }
)  # fmt: skip
VIEW_ATTRIBUTES: Final = frozenset({"H", "T", "data", "imag", "mH", "mT", "real"})
VIEW_MODULES: Final = (
    nn.Flatten,
    nn.Identity,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Unflatten,
    nn.modules.dropout._DropoutNd,
)
# Calls that return several values, each in memory of its own.
APART: Final = frozenset(
    {
        "aminmax", "cummax", "cummin", "frexp", "gru", "kthvalue", "lstm", "max", "median", "min",
        "mode", "multi_head_attention_forward", "nanmedian", "slogdet", "sort", "std_mean", "topk",
        "unique", "var_mean",
    }
)  # fmt: skip
APART_MODULES: Final = (nn.RNNBase, nn.MultiheadAttention)
WRITING_METHODS: Final = frozenset(
    {"__setitem__"}
    | {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")}
    | {f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")}
)


def refuse_writes_to_inputs(graph: fx.Graph, model: nn.Module) -> None:
    """`Refused` if a call may write into memory of an input: slots may share one batch."""
    memory = _Memory(graph, model)
    for node in graph.nodes:
        if memory.writes(node) and memory.owner(node).op == "placeholder":
            raise Refused(f"{describe(node)} writes into the model's input")


def find_lost_write(
    graph: fx.Graph, model: nn.Module, overwritten: Sequence[tuple[fx.Node, fx.Node]]
) -> tuple[str, str] | None:
    """The path of the first module that writes what a bundle would lose, and what it does.
    `overwritten` are the symbols that augmented assignments replaced, with the new ones.
    """
    memory = _Memory(graph, model)
    for node in graph.nodes:
        if memory.writes(node) and (what := memory.loss_of(node)):
            return node.meta.get(MODULE, ""), what
    for old, new in overwritten:
        if new in memory.order and memory.is_read_after(new, memory.names_of(old)):
            what = "assigns (as in x += y) to what is read later under another name"
            return new.meta.get(MODULE, ""), what
    return None


class _Memory:
    """Which values of a graph may be one memory."""

    def __init__(self, graph: fx.Graph, model: nn.Module) -> None:
        self._model = model
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        self._owner: dict[fx.Node, fx.Node] = {}
        attributes: dict[str, fx.Node] = {}
        for node in graph.nodes:
            given = node.all_input_nodes[:1]
            if node.op == "get_attr":
                self._owner[node] = attributes.setdefault(str(node.target), node)
            elif given and (self.writes(node) or self._is_view(node)):
                self._owner[node] = self._owner[given[0]]
            else:
                self._owner[node] = node
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        names += [name for name, _ in model.named_buffers(remove_duplicate=False)]
        self._state = frozenset(names)

    def owner(self, node: fx.Node) -> fx.Node:
        """The first value in the memory of this one."""
        return self._owner[node]

    def names_of(self, node: fx.Node) -> list[fx.Node]:
        """All values that may be in the memory of this one."""
        return [other for other, owner in self._owner.items() if owner is self._owner[node]]

    def is_read_after(self, write: fx.Node, names: Sequence[fx.Node]) -> bool:
        """Says whether one of these values, if it was there before, is used again."""
        place = self.order[write]
        earlier = [name for name in names if self.order[name] < place]
        return any(self.order[user] > place for name in earlier for user in name.users)

    def loss_of(self, write: fx.Node) -> str | None:
        """How a write into a value other than an input would go wrong; None: it does not."""
        target = write.all_input_nodes[0]
        owner = self._owner[target]
        if owner.op == "placeholder":
            return None  # refused apart
        is_state = owner.op == "get_attr" and str(owner.target) in self._state
        if owner.op == "get_attr" and not is_state:
            return f"writes ({_name(write)}) into a tensor that it makes or has from elsewhere"
        views = [name for name in self.names_of(target) if self._is_view(name)]
        through_view = any(self._is_view(one) for one in self._chain(target))
        if through_view and (is_state or self.is_read_after(write, self.names_of(target))):
            return f"writes ({_name(write)}) into a view of what is read under another name"
        if self.is_read_after(write, [view for view in views if view is not target]):
            return f"writes ({_name(write)}) into what is read through a view of it"
        return None

    def _chain(self, node: fx.Node) -> Iterator[fx.Node]:
        """From a value to the first in its memory."""
        while self._owner[node] is not node and node.op != "get_attr":
            yield node
            node = node.all_input_nodes[0]

    def writes(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self._model.get_submodule(str(node.target)), "inplace", False))
        if node.op == "call_method":
            name = str(node.target)
            return name in WRITING_METHODS or _is_in_place(name)
        if node.op == "call_function":
            return _is_in_place(_name(node)) or _is_asked_to_write(node)
        return False

    def _is_view(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self._model.get_submodule(str(node.target)), VIEW_MODULES)
        if node.target is getattr:
            return node.args[1] in VIEW_ATTRIBUTES
        if _name(node) == "getitem" and self._are_apart(node.all_input_nodes[0]):
            return False
        return node.op in ("call_function", "call_method") and _name(node) in VIEWS

    def _are_apart(self, node: fx.Node) -> bool:
        """Says whether it stands for several values, none in memory of another."""
        if node.op == "call_module":
            return isinstance(self._model.get_submodule(str(node.target)), APART_MODULES)
        return node.op in ("call_function", "call_method") and _name(node) in APART


def _name(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def _is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _is_asked_to_write(node: fx.Node) -> bool:
    """`inplace=True`, by name or by position."""
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except ValueError:  # a builtin: those have no such argument
        return False
    return given.arguments.get("inplace", False) is not False
