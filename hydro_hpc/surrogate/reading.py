"""How a module's own code uses a raw parameter, as far as that can be read from its source.

Only plain forms are understood: a sum with something else, an element of a concatenation, an
operand of a product of matrices, and views and local names of these. What else is done is unknown.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Final

from torch import nn

VIEWS: Final = {
    *("expand", "expand_as", "repeat", "unsqueeze", "squeeze", "view", "reshape", "flatten"),
    *("to", "type_as", "float", "half", "bfloat16", "contiguous", "permute", "transpose"),
}
TURNED: Final = {"T", "mT", "data"}
FACTS: Final = {"shape", "size", "device", "dtype", "ndim", "numel", "dim", "requires_grad"}
JOINS: Final = {"cat", "concat", "concatenate"}
SUMS: Final = {"add"}
PRODUCTS: Final = {"matmul", "mm", "bmm", "mv", "dot", "einsum", "linear", "baddbmm", "addmm"}


class Use(Enum):
    """What becomes of a parameter."""

    ADDED = "added"
    CONTRACTED = "contracted"
    NONE = "none"  # its size is asked for, it is drawn
    UNKNOWN = "unknown"
    UNSEEN = "unseen"  # the module has code of its own, and none of it reads the parameter


def use_of(module: nn.Module, name: str) -> Use:
    """ADDED if that is all that becomes of it; CONTRACTED if it is a factor anywhere."""
    methods = list(_methods(module))
    found = {use for function in methods for use in _uses(function, name, module)}
    if methods and not found:
        return Use.UNSEEN
    found.discard(Use.NONE)
    if Use.CONTRACTED in found:
        return Use.CONTRACTED
    return Use.ADDED if found == {Use.ADDED} else Use.UNKNOWN


def _methods(module: nn.Module) -> Iterator[ast.AST]:
    """Of the classes that the user wrote, but for what they do when they are made."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith("torch.") or cls is object:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name != "__init__" and node.args.args:
                yield _with_self(node)


def _with_self(method: ast.FunctionDef) -> ast.FunctionDef:
    """The module is called `self` in it, whatever its author calls it."""
    receiver = method.args.args[0].arg
    for node in ast.walk(method):
        if isinstance(node, ast.Name) and node.id == receiver:
            node.id = "self"
    return method


def _uses(function: ast.AST, name: str, module: nn.Module) -> Iterator[Use]:
    parents = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(function):
        if _is_own(node, name):
            yield from _becomes(node, parents, module, set())


def _becomes(
    node: ast.AST, parents: dict[ast.AST, ast.AST], module: nn.Module, followed: set[str]
) -> Iterator[Use]:
    """What is done with the value of an expression."""
    node, parent = _last_view(node, parents)
    if isinstance(parent, ast.Compare | ast.Expr):
        yield Use.NONE
    elif isinstance(parent, ast.Attribute):
        yield Use.NONE if parent.attr in FACTS else Use.UNKNOWN
    elif isinstance(parent, ast.BinOp):
        yield _operand(node, parent, module)
    elif isinstance(parent, ast.AugAssign) and isinstance(parent.op, ast.Add):
        yield Use.ADDED
    elif isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name):
        yield from _named(parent.targets[0].id, parents, module, followed)
    else:
        yield _argument(parent, parents)


def _last_view(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> tuple[ast.AST, ast.AST | None]:
    """The outermost view of an expression, and what it is part of."""
    while True:
        parent = parents.get(node)
        call = parents.get(parent) if parent is not None else None
        is_part = isinstance(parent, ast.Subscript) and parent.value is node
        attribute = parent.attr if isinstance(parent, ast.Attribute) else ""
        if parent is not None and (is_part or attribute in TURNED):
            node = parent
        elif call is not None and attribute in VIEWS:
            node = call
        else:
            return node, parent


def _operand(node: ast.AST, parent: ast.BinOp, module: nn.Module) -> Use:
    if isinstance(parent.op, ast.MatMult):
        return Use.CONTRACTED
    other = parent.right if parent.left is node else parent.left
    is_sum = isinstance(parent.op, ast.Add | ast.Sub) and not _has_parameter(other, module)
    return Use.ADDED if is_sum else Use.UNKNOWN


def _named(
    name: str, parents: dict[ast.AST, ast.AST], module: nn.Module, followed: set[str]
) -> Iterator[Use]:
    """What becomes of a local name, wherever the function reads it."""
    if name in followed:
        return
    for node in parents:
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            yield from _becomes(node, parents, module, followed | {name})


def _argument(parent: ast.AST | None, parents: dict[ast.AST, ast.AST]) -> Use:
    is_element = isinstance(parent, ast.List | ast.Tuple)
    call = parents.get(parent) if is_element and parent is not None else parent
    if not isinstance(call, ast.Call):
        return Use.UNKNOWN
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    if name in PRODUCTS:
        return Use.CONTRACTED
    if name.endswith("_"):
        return Use.NONE  # it is drawn anew, in place
    return Use.ADDED if name in (JOINS if is_element else SUMS) else Use.UNKNOWN


def _is_own(node: ast.AST, name: str) -> bool:
    is_of_self = (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )
    return is_of_self and getattr(node, "attr", "") == name


def _has_parameter(node: ast.AST, module: nn.Module) -> bool:
    """A sum of parameters may be a weight."""
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return any(_is_own(inner, name) for inner in ast.walk(node) for name in own)
