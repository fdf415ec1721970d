"""A fused module beside F separate ones: the same inputs, the same streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.nn import Members, SlotStreams, fuse, trial_stream
from tests.hydro_hpc.nn.cases import Case, Shared

SLOTS: Final = 3
SEEDS: Final = [8, 3, 21]
EXACT: Final = {"rtol": 1e-10, "atol": 1e-10}
CALLS: Final = 2  # statistics move


def modules_of(make: Callable[[], nn.Module]) -> list[nn.Module]:
    """One per slot, with parameters and running statistics that all differ."""
    modules = [make().double() for _ in range(SLOTS)]
    with torch.no_grad():
        for module in modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor))
    return modules


def members_of(modules: Sequence[nn.Module], streams: SlotStreams) -> Members:
    parameters = [dict(module.named_parameters()) for module in modules]
    buffers = [dict(module.named_buffers()) for module in modules]
    tensors: dict[str, Tensor] = {
        name: nn.Parameter(torch.stack([own[name].detach() for own in parameters]))
        for name in parameters[0]
    }
    for name in buffers[0]:
        tensors[name] = torch.stack([own[name] for own in buffers])
    return Members(path="part", modules=modules, tensors=tensors, streams=streams)


def inputs_of(case: Case) -> list[Tensor]:
    """[slots, *shape] each."""
    if case.largest is not None:
        return [torch.randint(0, case.largest, (SLOTS, *shape)) for shape in case.shapes]
    return [
        torch.randn(SLOTS, *shape, dtype=torch.float64, requires_grad=True) for shape in case.shapes
    ]


def compare(
    case: Case,
    *,
    training: bool,
    change: Callable[[Tensor], Tensor] = lambda x: x,
    change_all: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """AssertionError unless outputs, gradients of inputs and parameters, and buffers are equal.
    `change` gives fused inputs another layout in memory, `change_all` separate ones too."""
    torch.manual_seed(0)
    modules = modules_of(case.make)
    for module in modules:
        module.train(training)
    streams = SlotStreams(SEEDS)
    members = members_of(modules, streams)
    fused = fuse(members)
    inputs = inputs_of(case)
    rows = [[x[slot].detach().clone().requires_grad_(x.requires_grad) for x in inputs]
            for slot in range(SLOTS)]  # fmt: skip
    for _ in range(CALLS):
        streams.advance([True] * SLOTS)
        streams.begin_call(training=training)
        found = _tensors(
            fused(*[change_all(change(_own(x))) for x in inputs], **also_given(case, fused=True))
        )
    weights = [torch.randn_like(y[0]) for y in found]
    _backward([(y * w).sum() for y, w in zip(found, weights, strict=True)])
    for slot, (module, row) in enumerate(zip(modules, rows, strict=True)):
        for step in range(1, CALLS + 1):
            with trial_stream(SEEDS[slot], step, training=training):
                expected = _tensors(
                    module(*[change_all(_own(x)) for x in row], **also_given(case, fused=False))
                )
        _backward([(y * w).sum() for y, w in zip(expected, weights, strict=True)])
        _require_equal_slot(slot, module, members, found, expected)
        for x, alone in zip(inputs, row, strict=True):
            _require_equal(x.grad, alone.grad, slot)


def _require_equal_slot(
    slot: int,
    module: nn.Module,
    members: Members,
    found: list[Tensor],
    expected: list[Tensor],
) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        _require_equal(ours, theirs, slot)
    for name, parameter in module.named_parameters():
        _require_equal(members.tensors[name].grad, parameter.grad, slot)
        _require_equal(members.tensors[name], parameter, slot)  # some write into them
    for name, buffer in module.named_buffers():
        _require_equal(members.tensors[name], buffer, slot)


def _require_equal(ours: Tensor | None, theirs: Tensor | None, slot: int) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        torch.testing.assert_close(ours[slot], theirs, **EXACT)


def also_given(case: Case, *, fused: bool) -> dict[str, Any]:
    def given(value: Any) -> Any:
        if not isinstance(value, Shared):
            return value
        tensor = value.tensor
        return tensor.expand(SLOTS, *tensor.shape).contiguous() if fused else tensor

    return {name: given(value) for name, value in (case.call or {}).items()}


def _own(x: Tensor) -> Tensor:
    """In-place modules may not write to a leaf."""
    return x * 1


def _tensors(output: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]


def _backward(parts: list[Tensor]) -> None:
    wanted = [part for part in parts if part.requires_grad]
    if wanted:
        torch.stack(wanted).sum().backward()
