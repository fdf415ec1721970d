"""Which calls between modules are slot-safe, and what each becomes for tensors [slots, *shape].

A call that is not here is refused, and with it the grouped executor. Adding one needs a case in the
rules' test, where every entry is compared with the call on separate tensors. A slot dimension of 1
stands for one value that all slots share, as `torch.arange` gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import fx

from hydro_hpc.fusion.rules import (
    broadcasting,
    creation,
    layers,
    products,
    reductions,
    selection,
    shape,
)
from hydro_hpc.fusion.rules.description import describe
from hydro_hpc.fusion.rules.elementwise import ELEMENTWISE_FUNCTIONS, ELEMENTWISE_METHODS
from hydro_hpc.fusion.rules.products import matmul
from hydro_hpc.fusion.rules.shape import READABLE
from hydro_hpc.nn.members import Refused

__all__ = [
    "ELEMENTWISE_FUNCTIONS",
    "ELEMENTWISE_METHODS",
    "FUNCTIONS",
    "METHODS",
    "READABLE",
    "describe",
    "matmul",
    "slot_safe",
]

CONCEPTS: Final = (broadcasting, creation, layers, products, reductions, selection, shape)
FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    call: rule for concept in CONCEPTS for call, rule in concept.FUNCTIONS.items()
}
METHODS: Final[dict[str, Callable[..., Any]]] = {
    call: rule for concept in CONCEPTS for call, rule in concept.METHODS.items()
}

# Arguments that no rule follows unless they are this.
HARMLESS: Final = {"return_indices": False, "dropout_p": 0.0, "out": None}


def slot_safe(node: fx.Node) -> Callable[..., Any] | str:
    """What to call in place of this traced call (a method's name if it stays one); `Refused`."""
    target = node.target
    if target in (ELEMENTWISE_METHODS if node.op == "call_method" else ELEMENTWISE_FUNCTIONS):
        others: list[fx.Node] = []
        fx.map_arg((node.args[1:], node.kwargs), others.append)
        if others:
            raise Refused(f"{describe(node)} takes a traced value beside its first argument")
        return target
    rules: dict[Any, Callable[..., Any]] = METHODS if node.op == "call_method" else FUNCTIONS
    if target not in rules:
        raise Refused(f"{describe(node)} has no fused rule")
    if target is getattr and node.args[1] not in READABLE:
        raise Refused(f"reading .{node.args[1]} of a traced value has no fused rule")
    for name, value in HARMLESS.items():
        if node.kwargs.get(name, value) != value:
            raise Refused(f"{describe(node)} with {name}= has no fused rule")
    return rules[target]
