"""What becomes of the value of an expression in a method, as its source says.

Only plain forms are understood: sums and products value by value, elements of a concatenation,
products of matrices, elementwise functions, and views and local names of these. What else is done
is unknown.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import Final

VIEWS: Final = {
    *("expand", "expand_as", "repeat", "unsqueeze", "squeeze", "view", "reshape", "flatten"),
    *("to", "type_as", "float", "half", "bfloat16", "contiguous", "permute", "transpose", "t"),
    *("clone", "detach", "cuda", "cpu", "double", "swapaxes", "movedim", "broadcast_to"),
}
CHANGES: Final = {
    *("sigmoid", "tanh", "relu", "exp", "log", "abs", "sqrt", "rsqrt", "pow", "clamp", "neg"),
    *("softplus", "silu", "gelu", "square", "reciprocal", "clamp_min", "clamp_max", "sin", "cos"),
}
"""Of one value each."""
TURNED: Final = {"T", "mT", "data"}
FACTS: Final = {
    *("shape", "size", "device", "dtype", "ndim", "numel", "dim", "requires_grad", "grad"),
    *("is_cuda", "is_meta", "requires_grad_", "ndimension", "stride", "element_size"),
}
ASKED: Final = {"len", "print", "isinstance", "id", "type", "str", "repr"}
ASKED_OF: Final = {"to", "type_as", "expand_as", "view_as", "reshape_as"}  # of an argument's form
LIKE: Final = {f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")}
JOINS: Final = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}
SUMS: Final = {"add", "sub", "subtract"}
SCALES: Final = {"mul", "multiply", "div", "divide", "true_divide"}
MIXES: Final = {"lerp", "addcmul"}
NORMS: Final = {
    *("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "prelu"),
}
CONVOLUTIONS: Final = {f"conv{way}{axes}d" for way in ("", "_transpose") for axes in "123"}
PRODUCTS: Final = {
    *("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "linear", "bilinear", "tensordot"),
    *("baddbmm", "addmm", "addmv", "vecdot"),
}
ADDS_FIRST: Final = {"addmm", "addmv", "baddbmm"}
REDUCTIONS: Final = {"sum", "mean", "nansum", "nanmean", "logsumexp", "norm", "prod"}
OF_LIBRARIES: Final = {"self", "torch", "math", "np", "numpy", "F", "nn", "functional"}


class Use(Enum):
    """What becomes of a parameter."""

    ADDED = "added"
    SCALED = "multiplied value by value"
    CONTRACTED = "contracted"
    NONE = "none"  # its size is asked for, it is drawn
    UNKNOWN = "unknown"
    UNSEEN = "unseen"  # no code reads it


class Code:
    """A method in which the module is called `self`."""

    def __init__(self, method: ast.FunctionDef) -> None:
        self.name = method.name
        self.parents: dict[ast.AST, ast.AST] = {
            child: node for node in ast.walk(method) for child in ast.iter_child_nodes(node)
        }
        self.reads = [
            node
            for node in ast.walk(method)
            if (isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Load))
            or (isinstance(node, ast.Call) and _called(node) == "getattr")
        ]
        self.forwarded = [
            node.func.value
            for node in ast.walk(method)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "forward"
        ]
        """What `forward` is called of."""
        self.arguments = {each.arg for each in ast.walk(method) if isinstance(each, ast.arg)}
        self.bound: dict[str, list[tuple[ast.expr, bool]]] = {}
        """By local name, what it is given, and whether that is looped over."""
        for node in ast.walk(method):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, node.value, is_loop=False)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value:
                self._bind(node.target, node.value, is_loop=False)
            elif isinstance(node, ast.AugAssign):
                changed = ast.BinOp(left=node.target, op=node.op, right=node.value)
                self._bind(node.target, changed, is_loop=False)
            elif isinstance(node, ast.For | ast.comprehension):
                self._bind(node.target, node.iter, is_loop=True)

    def _bind(self, target: ast.expr, value: ast.expr, *, is_loop: bool) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, own in zip(target.elts, value.elts, strict=False):
                self._bind(one, own, is_loop=is_loop)
        else:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    self.bound.setdefault(node.id, []).append((value, is_loop))

    def named(self, name: str) -> Iterator[ast.Name]:
        """Where a local name is read."""
        for node in self.parents:
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
                yield node


class Expressions:
    """Those of one method. `has_parameter` says of an expression whether it holds one."""

    def __init__(self, code: Code, has_parameter: Callable[[ast.AST], bool]) -> None:
        self._code, self._parents = code, code.parents
        self._has_parameter = has_parameter

    def become(self, node: ast.AST, *, is_list: bool = False) -> Iterator[Use]:
        """What is done with the value of an expression; with each element, if it is a list."""
        if not is_list:
            yield from self._becomes(node, frozenset())
            return
        parent = self._parents.get(node)
        if isinstance(parent, ast.For | ast.comprehension) and isinstance(parent.target, ast.Name):
            yield from self._named(parent.target.id, frozenset())
        elif not isinstance(parent, ast.Subscript):  # of which each is read by itself
            is_asked = isinstance(parent, ast.Call) and _called(parent) in ASKED
            yield Use.NONE if is_asked or isinstance(parent, ast.Compare) else Use.UNKNOWN

    def _becomes(self, node: ast.AST, followed: frozenset[str]) -> Iterator[Use]:
        node, parent = self._last_view(node)
        if isinstance(parent, ast.Compare | ast.Expr | ast.Assert | ast.If | ast.FormattedValue):
            yield Use.NONE
        elif isinstance(parent, ast.IfExp):
            yield Use.NONE  # its condition
        elif isinstance(parent, ast.Attribute):
            yield from self._method(parent, followed)
        elif isinstance(parent, ast.UnaryOp):
            yield from self._becomes(parent, followed)
        elif isinstance(parent, ast.BinOp):
            yield from self._operand(node, parent, followed)
        elif isinstance(parent, ast.AugAssign):
            yield from self._changed_in_place(node, parent)
        elif isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name):
            yield from self._named(parent.targets[0].id, followed)
        elif isinstance(parent, ast.List | ast.Tuple):
            call = self._parents.get(parent)
            if not isinstance(call, ast.Call) or _called(call) not in JOINS:
                yield Use.UNKNOWN
            elif all(self._is_plain(each) for each in parent.elts):
                yield from self._becomes(call, followed)  # of parameters alone
            else:
                yield Use.ADDED
        else:
            yield from self._argument(node, parent, followed)

    def _last_view(self, node: ast.AST) -> tuple[ast.AST, ast.AST | None]:
        """The outermost view of an expression, and what it is part of."""
        while True:
            parent = self._parents.get(node)
            call = self._parents.get(parent) if parent is not None else None
            is_part = isinstance(parent, ast.Subscript) and parent.value is node
            is_choice = isinstance(parent, ast.IfExp) and parent.test is not node
            attribute = parent.attr if isinstance(parent, ast.Attribute) else ""
            if parent is not None and (is_part or is_choice or attribute in TURNED):
                node = parent
            elif isinstance(call, ast.Call) and attribute in VIEWS:
                node = call
            elif isinstance(parent, ast.Call) and _is_function_of(parent, node, VIEWS):
                node = parent
            else:
                return node, parent

    def _method(self, parent: ast.Attribute, followed: frozenset[str]) -> Iterator[Use]:
        """Of what is called on the value itself."""
        call = self._parents.get(parent)
        if parent.attr in FACTS or (parent.attr.endswith("_") and isinstance(call, ast.Call)):
            yield Use.NONE
        elif not isinstance(call, ast.Call):
            yield Use.UNKNOWN
        elif parent.attr in CHANGES:
            yield from self._becomes(call, followed)
        elif parent.attr in PRODUCTS:
            yield Use.CONTRACTED
        elif parent.attr in SUMS | SCALES and call.args:
            yield from self._with(call, call.args[0], parent.attr in SUMS, followed)
        else:
            yield Use.UNKNOWN

    def _operand(self, node: ast.AST, parent: ast.BinOp, followed: frozenset[str]) -> Iterator[Use]:
        other = parent.right if parent.left is node else parent.left
        if isinstance(parent.op, ast.MatMult):
            yield Use.CONTRACTED
        elif isinstance(parent.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            is_sum = isinstance(parent.op, ast.Add | ast.Sub)
            yield from self._with(parent, other, is_sum, followed)
        elif isinstance(parent.op, ast.Pow) and parent.left is node:
            yield from self._becomes(parent, followed)
        else:
            yield Use.UNKNOWN

    def _with(
        self, result: ast.AST, other: ast.AST, is_sum: bool, followed: frozenset[str]
    ) -> Iterator[Use]:
        """A sum or product with something else: with numbers and parameters alone it is no
        activation yet.
        """
        if self._is_plain(other):
            yield from self._becomes(result, followed)
        elif is_sum and not self._has_parameter(other):
            yield Use.ADDED
        else:
            yield Use.SCALED
            yield from self._summed(result, is_sure=not self._has_parameter(other))

    def _changed_in_place(self, node: ast.AST, parent: ast.AugAssign) -> Iterator[Use]:
        if parent.value is not node:
            yield Use.NONE
        elif isinstance(parent.op, ast.Add | ast.Sub):
            yield Use.ADDED
        elif isinstance(parent.op, ast.Mult | ast.Div):
            yield Use.SCALED
            if isinstance(parent.target, ast.Name):
                yield from self._summed_later(parent.target.id, parent, is_sure=True)
        else:
            yield Use.UNKNOWN

    def _named(self, name: str, followed: frozenset[str]) -> Iterator[Use]:
        """What becomes of a local name, wherever the function reads it."""
        if name not in followed:
            for node in self._code.named(name):
                yield from self._becomes(node, followed | {name})

    def _argument(
        self, node: ast.AST, parent: ast.AST | None, followed: frozenset[str]
    ) -> Iterator[Use]:
        keyword = parent.arg if isinstance(parent, ast.keyword) else None
        call = self._parents.get(parent) if isinstance(parent, ast.keyword) else parent
        if not isinstance(call, ast.Call):
            yield Use.UNKNOWN
            return
        at = call.args.index(node) if node in call.args else -1
        name = _called(call)
        is_method = isinstance(call.func, ast.Attribute) and not self._is_plain(call.func.value)
        if name in ASKED | LIKE or (is_method and name in ASKED_OF):
            yield Use.NONE
        elif name in CHANGES and at == 0:
            yield from self._becomes(call, followed)
        elif name == "einsum":
            yield from self._in_einsum(call, at)
        elif keyword == "bias" or (at == 2 and name in {"linear", *CONVOLUTIONS}):
            yield Use.ADDED
        elif name in PRODUCTS | CONVOLUTIONS:
            yield Use.ADDED if at == 0 and name in ADDS_FIRST else Use.CONTRACTED
        elif name in NORMS:
            yield Use.UNKNOWN if at == 0 else Use.SCALED
        elif name == "where" and at > 0:
            yield Use.ADDED
        elif name.removesuffix("_") in MIXES and (is_method or at > 0):
            yield Use.SCALED
        elif name.removesuffix("_") in SUMS | SCALES and (is_method or at in (0, 1)):
            is_sum = name.removesuffix("_") in SUMS
            others = [each for each in call.args if each is not node]
            other = call.func.value if is_method else others[0] if others else call  # type: ignore[attr-defined]
            yield from self._with(call, other, is_sum, followed)
        elif name.endswith("_") and "init" in ast.unparse(call.func).lower().split("."):
            yield Use.NONE  # drawn anew
        elif name.endswith("_") and isinstance(call.func, ast.Name):
            yield Use.NONE
        else:
            yield Use.UNKNOWN

    def _in_einsum(self, call: ast.Call, at: int) -> Iterator[Use]:
        equation = call.args[0].value if isinstance(call.args[0], ast.Constant) else ""
        before, arrow, after = str(equation).replace(" ", "").partition("->")
        operands = before.split(",")
        if not arrow or not 1 <= at <= len(operands):
            yield Use.UNKNOWN
        elif {*operands[at - 1]} <= {*after}:
            yield Use.SCALED
            yield from self._summed(call, is_sure=True)
        else:
            yield Use.CONTRACTED

    def _summed(self, node: ast.AST, *, is_sure: bool) -> Iterator[Use]:
        """What a parameter was multiplied with is summed over, as in a product. Not `is_sure`: it
        may be a parameter still.
        """
        node, parent = self._last_view(node)
        if isinstance(parent, ast.Attribute):
            call = self._parents.get(parent)
            if parent.attr in REDUCTIONS and isinstance(call, ast.Call):
                yield _over(call.args, call) if is_sure else Use.UNKNOWN
            elif parent.attr in CHANGES and call is not None:
                yield from self._summed(call, is_sure=is_sure)
        elif isinstance(parent, ast.Call) and node in parent.args:
            if _called(parent) in REDUCTIONS:
                yield _over(parent.args[1:], parent) if is_sure else Use.UNKNOWN
            elif _called(parent) in CHANGES:
                yield from self._summed(parent, is_sure=is_sure)
            elif _called(parent) in PRODUCTS and not is_sure:
                yield Use.UNKNOWN
        elif isinstance(parent, ast.BinOp):
            other = parent.right if parent.left is node else parent.left
            is_residual = isinstance(parent.op, ast.Add | ast.Sub) and not self._is_plain(other)
            if isinstance(parent.op, ast.MatMult):
                yield from () if is_sure else (Use.UNKNOWN,)
            elif not is_residual:
                yield from self._summed(parent, is_sure=is_sure)
        elif isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name):
            yield from self._summed_later(parent.targets[0].id, parent, is_sure=is_sure)

    def _summed_later(self, name: str, given: ast.stmt, *, is_sure: bool) -> Iterator[Use]:
        """Of a local name, until it is given something else."""
        others = [
            node.lineno
            for node in self._parents
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        ]
        end = min((line for line in others if line > given.lineno), default=None)
        for node in self._code.named(name):
            if given.lineno < node.lineno and (end is None or node.lineno <= end):
                yield from self._summed(node, is_sure=is_sure)

    def _is_plain(self, node: ast.AST, looked_up: frozenset[str] = frozenset()) -> bool:
        """Says whether it is made of numbers and of what the module keeps, and of no argument."""
        names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        return all(self._is_plain_name(name, looked_up) for name in names - OF_LIBRARIES)

    def _is_plain_name(self, name: str, looked_up: frozenset[str]) -> bool:
        bound = self._code.bound.get(name)
        if name in looked_up:
            return True
        if name in self._code.arguments or not bound:
            return False
        return all(self._is_plain(value, looked_up | {name}) for value, _ in bound)


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def _is_function_of(call: ast.Call, node: ast.AST, names: Collection[str]) -> bool:
    """As `torch.reshape(node, ...)`."""
    is_library = ast.unparse(call.func).partition(".")[0] in OF_LIBRARIES - {"self"}
    return is_library and _called(call) in names and bool(call.args) and call.args[0] is node


def _over(axes: list[ast.expr], call: ast.Call) -> Use:
    """A sum over the last axis is one over the width; over which other axes is not known."""
    given = [*axes, *(k.value for k in call.keywords if k.arg in ("dim", "axis"))]
    is_last = bool(given) and ast.unparse(given[0]) in ("-1", "(-1,)", "[-1]")
    return Use.CONTRACTED if is_last else Use.UNKNOWN
