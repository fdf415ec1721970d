"""Every rule does in each slot what the call does to the slot's own tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from hydro_hpc.fusion import rules
from hydro_hpc.nn import Refused, shapes

SLOTS: Final = 3


def x(*shape: int) -> Tensor:
    """[slots, *shape], all values different."""
    return torch.rand(SLOTS, *shape, dtype=torch.float64) + 0.5


Arguments = Callable[[], tuple[Any, ...]]


def one(*shape: int, then: tuple[Any, ...] = ()) -> Arguments:
    return lambda: (x(*shape), *then)


def two(first: tuple[int, ...], second: tuple[int, ...]) -> list[Arguments]:
    return [lambda: (x(*first), x(*second))]


BROADCAST: Final = [
    *two((5, 4, 7), (5, 4, 7)),
    *two((5, 4, 7), (4, 1)),
    *two((7,), (5, 4, 7)),
    *two((5, 4), ()),
    lambda: (x(5, 4), 3),
    lambda: (2, x(5, 4)),
]
MATMUL: Final = [*two((5, 4), (4, 7)), *two((2, 5, 4), (4, 7)), *two((2, 5, 4), (2, 4, 7))]
DIM: Final = [one(5, 4, 7, then=(dim,)) for dim in (0, 1, 2, -1, -3)]
DIMS: Final = [one(5, 4, 7), *DIM, one(5, 4, 7, then=((0, 2),)), one(5, 4, then=(1, True)), one()]
SHAPES: Final = [
    one(5, 4, 6, then=(5, -1)),
    one(5, 4, 6, then=((-1, 3),)),
    one(5, 4, 6, then=(-1,)),
]
FLATTEN: Final = [
    one(5, 4, 6),
    one(5, 4, 6, then=(1,)),
    one(5, 4, 6, then=(0, 1)),
    one(5, then=(-1,)),
    one(),
]
POOL: Final = [
    one(5, 2, 6, 8, then=(2,)),
    one(5, 2, 6, 8, then=((3, 2), 1, 1)),
    one(2, 6, 8, then=(2,)),
]

BY_NAME: Final[dict[str, list[Arguments]]] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "truediv", "floordiv", "pow"), BROADCAST),
    **dict.fromkeys(("matmul", "bmm"), MATMUL),
    **dict.fromkeys(("mean", "sum"), DIMS),
    **dict.fromkeys(("softmax", "log_softmax"), DIM),
    **dict.fromkeys(("reshape", "view"), SHAPES),
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), POOL),
    "flatten": FLATTEN,
    "squeeze": [one(5, 1, 7, then=(1,)), one(1, 4, then=(0,)), one(4, 1, then=(-1,))],
    "unsqueeze": [one(5, 4, then=(dim,)) for dim in (0, 1, 2, -1, -3)],
    "transpose": [one(5, 4, 7, then=(0, 1)), one(5, 4, 7, then=(-1, 1))],
    "permute": [one(5, 4, 7, then=(2, 0, -2)), one(5, 4, 7, then=((1, 0, 2),))],
    "cat": [lambda: ([x(5, 4), x(5, 2)], 1), lambda: ([x(5, 4), x(3, 4)],)],
    "linear": [lambda: (x(5, 4), x(7, 4), x(7)), lambda: (x(2, 5, 4), x(7, 4))],
    "adaptive_avg_pool2d": [one(5, 2, 6, 8, then=((2, 3),))],
    "getitem": [
        one(5, 4, 7, then=(index,))
        for index in (0, slice(1, 3), (slice(None), 2), (slice(None), -1, slice(0, 4)))
    ],
    "getattr": [one(5, 4, then=(name,)) for name in sorted(rules.READABLE)],
    "size": [one(5, 4), one(5, 4, then=(0,)), one(5, 4, then=(-1,))],
    "dim": [one(5, 4), one()],
}


def of_slot(value: Any, slot: int) -> Any:
    if isinstance(value, Tensor):
        return value[slot].clone()
    return [of_slot(part, slot) for part in value] if isinstance(value, list) else value


def takes(call: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether torch's own call takes these at all."""
    rows = [of_slot(argument, 0) for argument in arguments]
    try:
        getattr(rows[0], call)(*rows[1:]) if isinstance(call, str) else call(*rows)
    except (TypeError, AttributeError, RuntimeError):
        return False
    return True


def cases() -> list[Any]:
    """Every rule with the arguments under its name; each must take some of them."""
    found = []
    for call, rule in [*rules.FUNCTIONS.items(), *rules.METHODS.items()]:
        makers = [make for make in BY_NAME[name_of(call)] if takes(call, make())]
        assert makers, call
        found += [
            pytest.param(call, rule, make, id=f"{name_of(call)}-{number}")
            for number, make in enumerate(makers)
        ]
    return found


def name_of(call: Any) -> str:
    return call if isinstance(call, str) else call.__name__.lstrip("_").replace("fn", "max_pool2d")


@pytest.mark.parametrize(("call", "rule", "make"), cases())
def test_equals_the_call_on_each_slots_tensors(call: Any, rule: Any, make: Arguments) -> None:
    torch.manual_seed(0)
    arguments = make()
    rows = [[of_slot(argument, slot) for argument in arguments] for slot in range(SLOTS)]
    found = rule(*arguments)
    for slot, row in enumerate(rows):
        expected = getattr(row[0], call)(*row[1:]) if isinstance(call, str) else call(*row)
        if isinstance(expected, Tensor):
            torch.testing.assert_close(found[slot], expected, rtol=1e-12, atol=1e-12)
        else:
            assert found == expected


def test_every_rule_has_cases() -> None:
    named = {name_of(call) for call in (*rules.FUNCTIONS, *rules.METHODS)}
    assert named == set(BY_NAME)


@pytest.mark.parametrize("function", sorted(rules.ELEMENTWISE_FUNCTIONS, key=str), ids=name_of)
def test_elementwise_functions_are(function: Callable[..., Tensor]) -> None:
    values = x(5, 4)
    then = (0.6, 0.9) if function is torch.clamp else ()
    alone = torch.stack([function(v.reshape(1), *then).reshape(()) for v in values.flatten()])
    torch.testing.assert_close(function(values, *then).flatten(), alone, rtol=1e-13, atol=0)


@pytest.mark.parametrize("method", sorted(rules.ELEMENTWISE_METHODS))
def test_elementwise_methods_are(method: str) -> None:
    then: dict[str, tuple[Any, ...]] = {"clamp": (0.6, 0.9), "to": (torch.float32,)}
    values = x(5, 4)
    whole = getattr(values.clone(), method)(*then.get(method, ()))
    alone = [getattr(v.reshape(1), method)(*then.get(method, ())) for v in values.flatten()]
    torch.testing.assert_close(whole.flatten(), torch.cat(alone), rtol=1e-13, atol=0)


@given(rank=st.integers(1, 4), dim=st.integers(-6, 6))
def test_no_axis_reaches_the_slots(rank: int, dim: int) -> None:
    tensor = torch.zeros(SLOTS, *[2] * rank)
    if -rank <= dim < rank:
        assert shapes.inner_dim(tensor, dim) % tensor.ndim == dim % rank + 1
    else:
        with pytest.raises(IndexError, match=f"rank {rank}"):
            shapes.inner_dim(tensor, dim)


def node_of(function: Callable[..., Any]) -> fx.Node:
    class Model(nn.Module):
        def forward(self, a: Tensor) -> Any:
            return function(a)

    calls = [n for n in fx.Tracer().trace(Model()).nodes if n.op.startswith("call")]
    return calls[-1]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a: torch.cumsum(a, 0), "'cumsum' has no fused rule"),
        (lambda a: a.argmax(1), r"'\.argmax\(\)' has no fused rule"),
        (lambda a: a.clamp(min=a + 1), "takes a traced value beside its first argument"),
        (lambda a: a.T, "reading .T of a traced value"),
    ],
)
def test_other_calls_are_refused(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        rules.slot_safe(node_of(function))


def test_a_product_with_a_vector_is_refused() -> None:
    with pytest.raises(Refused, match="single vector"):
        rules.matmul(x(5, 4), x(4))
