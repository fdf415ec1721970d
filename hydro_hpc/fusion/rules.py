"""Which calls between modules are slot-safe, and what each becomes for tensors [slots, *shape].

A call that is not here is refused, and with it the grouped executor. Adding one needs a case in the
rules' test, where every entry is compared with the call on separate tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from hydro_hpc.nn import functional, shapes
from hydro_hpc.nn.members import Refused


def aligned(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A broadcasting operation of two tensors or numbers, slot by slot."""

    def apply(a: Any, b: Any, **settings: Any) -> Any:
        rank = max(getattr(a, "ndim", 0), getattr(b, "ndim", 0))
        return operation(shapes.align(a, rank), shapes.align(b, rank), **settings)

    return apply


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices or batches of them; products with single vectors are refused."""
    if a.ndim < 3 or b.ndim < 3:
        raise Refused("matmul with a single vector has no fused rule")
    rank = max(a.ndim, b.ndim)
    return torch.matmul(shapes.align(a, rank), shapes.align(b, rank))


def attribute(x: Any, name: str) -> Any:
    """`x.shape` and the like, as the unfused tensor would answer."""
    if not isinstance(x, Tensor):
        return getattr(x, name)
    answers = {"shape": shapes.size, "ndim": shapes.rank}
    return answers[name](x) if name in answers else getattr(x, name)


# The output element depends on the input element at the same place alone; only the first argument
# may be a tensor.
ELEMENTWISE_FUNCTIONS: Final = frozenset(
    {
        torch.abs, torch.clamp, torch.cos, torch.erf, torch.exp, torch.log, torch.log1p, torch.neg,
        torch.relu, torch.rsqrt, torch.sigmoid, torch.sin, torch.sqrt, torch.square, torch.tanh,
        F.celu, F.elu, F.gelu, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid,
        F.mish, F.relu, F.relu6, F.selu, F.sigmoid, F.silu, F.softplus, F.softsign, F.tanh,
        operator.neg,
    }
)  # fmt: skip
ELEMENTWISE_METHODS: Final = frozenset(
    {
        "abs", "clamp", "clone", "contiguous", "cos", "detach", "double", "erf", "exp", "float",
        "log", "neg", "relu", "relu_", "rsqrt", "sigmoid", "sin", "sqrt", "square", "tanh", "to",
    }
)  # fmt: skip

FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    getattr: attribute,
    operator.getitem: shapes.getitem,
    **{
        operation: aligned(operation)
        for operation in (
            operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
            operator.pow, torch.add, torch.sub, torch.mul, torch.div, torch.pow,
        )
    },
    operator.matmul: matmul,
    torch.matmul: matmul,
    torch.bmm: torch.matmul,
    torch.cat: shapes.cat,
    torch.flatten: shapes.flatten,
    torch.mean: shapes.mean,
    torch.permute: shapes.permute,
    torch.reshape: shapes.reshape,
    torch.squeeze: shapes.squeeze,
    torch.sum: shapes.sum,
    torch.transpose: shapes.transpose,
    torch.unsqueeze: shapes.unsqueeze,
    torch.softmax: functional.softmax,
    torch.log_softmax: functional.log_softmax,
    F.softmax: functional.softmax,
    F.log_softmax: functional.log_softmax,
    F.linear: functional.linear,
    F.max_pool2d: functional.max_pool2d,
    F.avg_pool2d: functional.avg_pool2d,
    F.adaptive_avg_pool2d: functional.adaptive_avg_pool2d,
}  # fmt: skip

METHODS: Final[dict[str, Callable[..., Any]]] = {
    "add": aligned(torch.add),
    "dim": shapes.rank,
    "div": aligned(torch.div),
    "flatten": shapes.flatten,
    "log_softmax": functional.log_softmax,
    "matmul": matmul,
    "mean": shapes.mean,
    "mul": aligned(torch.mul),
    "permute": shapes.permute,
    "pow": aligned(torch.pow),
    "reshape": shapes.reshape,
    "size": shapes.size,
    "softmax": functional.softmax,
    "squeeze": shapes.squeeze,
    "sub": aligned(torch.sub),
    "sum": shapes.sum,
    "transpose": shapes.transpose,
    "unsqueeze": shapes.unsqueeze,
    "view": shapes.reshape,
}

TORCH_FOLDER: Final = str(Path(torch.__file__).parent)
READABLE: Final = frozenset({"shape", "ndim", "dtype", "device"})


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
    return rules[target]


def describe(node: fx.Node) -> str:
    """The call as a person would look for it, with its source line where known."""
    name = getattr(node.target, "__name__", str(node.target))
    shown = f"'.{name}()'" if node.op == "call_method" else f"'{name}'"
    line = _source_line(node.stack_trace or "")
    return f"{shown} in `{line}`" if line else shown


def _source_line(stack: str) -> str:
    """The innermost line that is not torch's own, of text as Python prints a traceback."""
    frames = stack.split('File "')[1:]
    own = [frame for frame in frames if TORCH_FOLDER not in frame.split('"')[0]]
    lines = own[-1].strip().splitlines() if own else []
    return lines[1].strip() if len(lines) > 1 else ""
