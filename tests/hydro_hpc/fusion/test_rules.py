"""Every rule does in each slot what the call does to the slot's own tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hydro_hpc.fusion import rules
from hydro_hpc.nn import Refused, shapes
from tests.hydro_hpc.fusion.rule_cases import BY_NAME, LAYERS, SLOTS, Arguments, Named, x

RULES: Final = [*rules.FUNCTIONS.items(), *rules.METHODS.items()]

# What torch calls by another name than people do.
NAMES: Final[dict[Any, str]] = {
    getattr(F, name): name for name in dir(F) if getattr(getattr(F, name), "__name__", "") == "fn"
}


def name_of(call: Any) -> str:
    if isinstance(call, str):
        return call
    name: str = NAMES.get(call, call.__name__)
    return name if name in BY_NAME else name.lstrip("_")


def of_slot(value: Any, slot: int) -> Any:
    """The slot's own tensors, to write into."""
    return pytree.tree_map_only(Tensor, lambda t: t[slot].clone(), value)


def called(call: Any, arguments: tuple[Any, ...]) -> Any:
    *given, last = arguments
    named = last if isinstance(last, Named) else {}
    given = given if isinstance(last, Named) else [*given, last]
    if isinstance(call, str):
        return getattr(given[0], call)(*given[1:], **named)
    return call(*given, **named)


def called_alone(call: Any, arguments: tuple[Any, ...], slot: int) -> Any:
    return called(call, tuple(of_slot(argument, slot) for argument in arguments))


def takes(call: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether torch's own call takes these at all."""
    try:
        called_alone(call, arguments, 0)
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError):
        return False
    return True


def cases() -> list[Any]:
    """Every rule with the arguments under its name; each must take some of them."""
    found = []
    for call, rule in RULES:
        makers = [make for make in BY_NAME[name_of(call)] if takes(call, make())]
        assert makers, call
        found += [
            pytest.param(call, rule, make, id=f"{name_of(call)}-{number}")
            for number, make in enumerate(makers)
        ]
    return found


def compare(call: Any, rule: Any, make: Arguments) -> None:
    """AssertionError unless the rule gives, in every slot, the call's results, gradients and
    written values."""
    torch.manual_seed(0)
    arguments = make() if name_of(call) in WRITERS else _with_gradients(make())
    expected = [called_alone(call, arguments, slot) for slot in range(SLOTS)]
    if isinstance(call, str) and call.endswith("_"):
        arguments = (arguments[0].clone(), *arguments[1:])
    found = called(rule, arguments)
    for slot, alone in enumerate(expected):
        ours, theirs = pytree.tree_leaves(found), pytree.tree_leaves(alone)
        if not any(isinstance(leaf, Tensor) for leaf in theirs):
            assert found == alone
            continue
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            row = a[slot] if a.size(0) == SLOTS else a[0]
            torch.testing.assert_close(row, b, rtol=1e-12, atol=1e-12, equal_nan=True)
    _compare_gradients(found, expected, arguments)


def equals(call: Any, rule: Any, make: Arguments) -> bool:
    try:
        compare(call, rule, make)
    except (AssertionError, RuntimeError, IndexError, ValueError):
        return False
    return True


# They write into running statistics, which want no gradient.
WRITERS: Final = {"batch_norm", "instance_norm"}


def _with_gradients(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map_only(
        Tensor, lambda t: t.requires_grad_() if t.is_floating_point() else t, arguments
    )


def _compare_gradients(found: Any, expected: list[Any], arguments: tuple[Any, ...]) -> None:
    leaves = [t for t in pytree.tree_leaves(arguments) if isinstance(t, Tensor)]
    wanted = [t for t in leaves if t.requires_grad and t.is_leaf]
    loss, alone = _loss([found]), _loss(expected)
    if loss is None or alone is None or not wanted:
        return
    try:
        theirs = torch.autograd.grad(alone, wanted, allow_unused=True)
    except RuntimeError:  # torch has no derivative
        return
    ours = torch.autograd.grad(loss, wanted, allow_unused=True)
    tolerance = 1e-10 if all(t.dtype is torch.float64 for t in wanted) else 1e-5
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _loss(outputs: list[Any]) -> Tensor | None:
    """Of all slots; places within a slot have different weights."""
    parts = []
    for y in pytree.tree_leaves(outputs):
        if isinstance(y, Tensor) and y.requires_grad:
            size = y.numel() if len(outputs) > 1 else y[0].numel()
            weights = torch.arange(1, size + 1, dtype=y.dtype)
            parts.append((y.reshape(-1, size) * weights).sum())
    return torch.stack(parts).sum() if parts else None


@pytest.mark.parametrize(("call", "rule", "make"), cases())
def test_equals_the_call_on_each_slots_tensors(call: Any, rule: Any, make: Arguments) -> None:
    compare(call, rule, make)


@pytest.mark.parametrize("name", LAYERS)
def test_a_traced_call_finds_its_rule(name: str) -> None:
    """torch.fx sometimes names another function than the one that was called."""
    call = getattr(F, name)
    arguments = next(make() for make in LAYERS[name] if takes(call, make()))
    node = node_of(lambda a: called(call, (a, *arguments[1:])))
    assert rules.slot_safe(node)


def test_every_rule_has_cases() -> None:
    assert {name_of(call) for call, _ in RULES} == set(BY_NAME)


# Their results do not depend on the values in the slots.
BLIND: Final = {
    "arange", "dim", "full_like", "getattr", "new_full", "new_ones", "new_zeros", "numel",
    "ones_like", "size", "zeros_like",
}  # fmt: skip


def neighbours_rows(rule: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*arguments: Any, **named: Any) -> Any:
        arguments, named = pytree.tree_map_only(Tensor, lambda t: t.roll(1, 0), (arguments, named))
        return rule(*arguments, **named)

    return wrong


def first_slot_for_all(rule: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*arguments: Any, **named: Any) -> Any:
        results = rule(*arguments, **named)
        return pytree.tree_map_only(Tensor, lambda t: t[:1].expand_as(t), results)

    return wrong


@pytest.mark.parametrize("mutant", [neighbours_rows, first_slot_for_all])
@pytest.mark.parametrize("number", range(len(RULES)), ids=[name_of(call) for call, _ in RULES])
def test_a_rule_that_mixes_slots_is_found(number: int, mutant: Any) -> None:
    call, rule = RULES[number]
    if name_of(call) in BLIND:
        return
    makers = [make for make in BY_NAME[name_of(call)] if takes(call, make())]
    assert not all(equals(call, mutant(rule), make) for make in makers)


@pytest.mark.parametrize(
    "name",
    ["softmax", "sum", "max", "var", "cumsum", "cat", "stack", "transpose", "unsqueeze", "roll"],
)
def test_an_axis_off_by_one_is_found(name: str) -> None:
    """As torch's own calls would be, on tensors that have the slots in front."""
    call = getattr(torch, name)
    makers = [make for make in BY_NAME[name] if takes(call, make())]
    assert not all(equals(call, call, make) for make in makers)


@pytest.mark.parametrize("function", sorted(rules.ELEMENTWISE_FUNCTIONS, key=str), ids=name_of)
def test_elementwise_functions_are(function: Callable[..., Tensor]) -> None:
    values = x(5, 4) / 2
    bounds = (0.3, 0.5) if function in (torch.clamp, torch.clip, F.threshold) else ()
    alone = torch.stack([function(v.reshape(1), *bounds).reshape(()) for v in values.flatten()])
    torch.testing.assert_close(function(values, *bounds).flatten(), alone, rtol=1e-13, atol=0)


@pytest.mark.parametrize("method", sorted(rules.ELEMENTWISE_METHODS))
def test_elementwise_methods_are(method: str) -> None:
    bounds = (0.3, 0.5) if method in ("clamp", "clamp_", "clip") else ()
    values = x(5, 4) / 2
    whole = getattr(values.clone(), method)(*bounds)
    alone = [getattr(v.reshape(1).clone(), method)(*bounds) for v in values.flatten()]
    torch.testing.assert_close(whole.flatten(), torch.cat(alone), rtol=1e-13, atol=0)


@given(rank=st.integers(1, 4), dim=st.integers(-6, 6))
def test_no_axis_reaches_the_slots(rank: int, dim: int) -> None:
    tensor = torch.zeros(SLOTS, *[2] * rank)
    if -rank <= dim < rank:
        assert shapes.inner_dim(tensor, dim) % tensor.ndim == dim % rank + 1
    else:
        with pytest.raises(IndexError, match=f"rank {rank}"):
            shapes.inner_dim(tensor, dim)
    if -rank - 1 <= dim <= rank:
        assert shapes.unsqueeze(tensor, dim).size(0) == SLOTS
    else:
        with pytest.raises(IndexError, match=f"rank {rank}"):
            shapes.unsqueeze(tensor, dim)


@pytest.mark.parametrize(
    "look_up",
    [
        lambda values, places: rules.METHODS["index_select"](values, 0, places),
        lambda values, places: rules.FUNCTIONS[F.embedding](places, values),
        lambda values, places: rules.FUNCTIONS[operator.getitem](values, places),
    ],
)
def test_places_that_all_slots_share_serve_every_slot(look_up: Any) -> None:
    values = x(5, 4)
    shared = rules.FUNCTIONS[torch.arange](3)
    assert shared.shape == (1, 3)
    assert torch.equal(look_up(values, shared), values[:, :3])


def node_of(function: Callable[..., Any]) -> fx.Node:
    class Model(nn.Module):
        def forward(self, a: Tensor) -> Any:
            return function(a)

    calls = [n for n in fx.Tracer().trace(Model()).nodes if n.op.startswith("call")]
    return calls[-1]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a: torch.cdist(a, a), "'cdist' has no fused rule"),
        (lambda a: a.median(1), r"'\.median\(\)' has no fused rule"),
        (lambda a: a.clamp(min=a + 1), "takes a traced value beside its first argument"),
        (lambda a: a.data, "reading .data of a traced value"),
        (lambda a: F.max_pool2d(a, 2, return_indices=True), "return_indices=|no fused rule"),
        (
            lambda a: F.scaled_dot_product_attention(a, a, a, dropout_p=0.5),
            "with dropout_p= has no fused rule",
        ),
    ],
)
def test_other_calls_are_refused(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        rules.slot_safe(node_of(function))


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (torch.norm, (x(5, 4), "nuc")),
        (torch.argmax, (x(5, 4), None, True)),
        (F.one_hot, (torch.zeros(SLOTS, 5).long(),)),
        (torch.einsum, (x(5, 4), [0, 1])),
        (F.scaled_dot_product_attention, (x(5, 4), x(5, 4), x(5, 4), None, 0.5)),
    ],
)
def test_other_arguments_are_refused(call: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(Refused, match="no fused rule"):
        rules.FUNCTIONS[call](*arguments)
