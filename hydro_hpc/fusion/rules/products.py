"""Products of matrices and vectors."""

from __future__ import annotations

import operator
import string
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.nn import shapes
from hydro_hpc.nn.members import Refused


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices, batches of them, and single vectors."""
    if a.ndim < 2 or b.ndim < 2:
        raise RuntimeError("both arguments of matmul need an axis")
    is_row, is_column = a.ndim == 2, b.ndim == 2
    a = a.unsqueeze(1) if is_row else a
    b = b.unsqueeze(2) if is_column else b
    rank = max(a.ndim, b.ndim)
    y = torch.matmul(shapes.align(a, rank), shapes.align(b, rank))
    y = y.squeeze(-1) if is_column else y
    if is_row:
        y = y.squeeze(-1 if is_column else -2)
    return y


def plus_product(x: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`torch.addmm`, `addmv` and `baddbmm`."""
    product = matmul(a, b)
    product = product if alpha == 1 else alpha * product
    x = shapes.align(x, product.ndim)
    return x + product if beta == 1 else beta * x + product


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(2) * b.unsqueeze(1)


def einsum(equation: str, *operands: Any) -> Tensor:
    """With the slots as one more letter of every term."""
    tensors = operands[0] if isinstance(operands[0], list | tuple) else operands
    return torch.einsum(with_slots(equation), *tensors)


def with_slots(equation: str) -> str:
    """The equation with a letter of its own for the slots, and with its output written out."""
    if not isinstance(equation, str):
        raise Refused("einsum without an equation in letters has no fused rule")
    equation = equation.replace(" ", "")
    terms, arrow, output = equation.partition("->")
    if not arrow:
        letters = terms.replace(",", "").replace(".", "")
        once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        output = ("..." if "..." in terms else "") + "".join(once)
    slot = next(letter for letter in string.ascii_letters if letter not in equation)
    return ",".join(slot + term for term in terms.split(",")) + "->" + slot + output


FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    torch.addmm: plus_product,
    torch.addmv: plus_product,
    torch.baddbmm: plus_product,
    torch.bmm: matmul,
    torch.dot: matmul,
    torch.einsum: einsum,
    torch.matmul: matmul,
    torch.mm: matmul,
    torch.mv: matmul,
    torch.outer: outer,
    operator.matmul: matmul,
}
METHODS: Final[dict[str, Callable[..., Any]]] = {
    "addmm": plus_product,
    "addmv": plus_product,
    "baddbmm": plus_product,
    "bmm": matmul,
    "dot": matmul,
    "matmul": matmul,
    "mm": matmul,
    "mv": matmul,
    "outer": outer,
}
