"""Every fused module equals F separate torch modules: outputs, gradients, buffers, in both modes.

Slots, batch and channels all differ, and so do the values in the slots.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.nn import Members, Refused, SlotStreams, fuse, trial_stream
from hydro_hpc.nn.activation import ELEMENTWISE
from hydro_hpc.nn.registry import FUSED

SLOTS: Final = 3
SEEDS: Final = [8, 3, 21]
EXACT: Final = {"rtol": 1e-10, "atol": 1e-10}

Case = tuple[Callable[[], nn.Module], tuple[int, ...]]

CASES: Final[dict[str, Case]] = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (5, 6)),
    "linear on tokens": (lambda: nn.Linear(6, 4), (5, 7, 6)),
    "linear without batch": (lambda: nn.Linear(6, 4), (6,)),
    "conv": (lambda: nn.Conv2d(2, 4, 3), (5, 2, 7, 6)),
    "conv with everything": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2),
        (5, 4, 9, 8),
    ),
    "depthwise conv without bias": (
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same", bias=False),
        (5, 4, 7, 6),
    ),
    "conv without batch": (lambda: nn.Conv2d(2, 4, 3), (2, 7, 6)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(6), (5, 6)),
    "batch norm 1d with length": (lambda: nn.BatchNorm1d(6, momentum=0.3, eps=1e-3), (5, 6, 7)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(4), (5, 4, 7, 6)),
    "batch norm without statistics": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        (5, 4, 7, 6),
    ),
    "batch norm without affine": (lambda: nn.BatchNorm2d(4, affine=False), (5, 4, 7, 6)),
    "layer norm": (lambda: nn.LayerNorm(6), (5, 7, 6)),
    "layer norm over two axes": (lambda: nn.LayerNorm((7, 6), eps=1e-3), (5, 7, 6)),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), (5, 6)),
    "softmax over channels": (lambda: nn.Softmax(dim=1), (5, 4, 7)),
    "softmax over the batch": (lambda: nn.Softmax(dim=0), (5, 4, 7)),
    "softmax over the last axis": (lambda: nn.Softmax(dim=-1), (5, 4, 7)),
    "log-softmax over channels": (lambda: nn.LogSoftmax(dim=1), (5, 4, 7)),
    "max pool": (lambda: nn.MaxPool2d(2), (5, 4, 7, 6)),
    "max pool with everything": (
        lambda: nn.MaxPool2d((3, 2), stride=1, padding=1, dilation=(1, 2), ceil_mode=True),
        (5, 4, 7, 6),
    ),
    "max pool without batch": (lambda: nn.MaxPool2d(2), (4, 7, 6)),
    "average pool": (
        lambda: nn.AvgPool2d((3, 2), padding=1, count_include_pad=False),
        (5, 4, 7, 6),
    ),
    "adaptive average pool": (lambda: nn.AdaptiveAvgPool2d((2, None)), (5, 4, 7, 6)),
    "dropout": (lambda: nn.Dropout(0.4), (5, 7, 6)),
    "dropout of nothing": (lambda: nn.Dropout(0.0), (5, 6)),
    "dropout of all": (lambda: nn.Dropout(1.0), (5, 6)),
    "flatten": (lambda: nn.Flatten(), (5, 4, 7, 6)),
    "flatten all": (lambda: nn.Flatten(0, -1), (5, 4, 7)),
    "flatten the first": (lambda: nn.Flatten(0, 1), (5, 4, 7)),
    "identity": (lambda: nn.Identity(), (5, 4)),
    "leaky relu": (lambda: nn.LeakyReLU(0.3), (5, 4)),
    "gelu by tanh": (lambda: nn.GELU("tanh"), (5, 4)),
    "embedding": (lambda: nn.Embedding(11, 6), (5, 7)),
    "embedding with padding": (lambda: nn.Embedding(11, 6, padding_idx=3), (5, 7)),
    **{
        kind.__name__: (kind, (5, 4))  # type: ignore[dict-item]
        for kind in ELEMENTWISE
        if kind is not nn.Threshold
    },
    "threshold": (lambda: nn.Threshold(0.1, 0.5), (5, 4)),
}


def modules_of(make: Callable[[], nn.Module]) -> list[nn.Module]:
    """One per slot, with parameters and running statistics that all differ."""
    modules = [make().double() for _ in range(SLOTS)]
    with torch.no_grad():
        for module in modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor))
    return modules


def members_of(modules: list[nn.Module], streams: SlotStreams) -> Members:
    parameters = [dict(module.named_parameters()) for module in modules]
    buffers = [dict(module.named_buffers()) for module in modules]
    tensors: dict[str, Tensor] = {
        name: nn.Parameter(torch.stack([own[name].detach() for own in parameters]))
        for name in parameters[0]
    }
    for name in buffers[0]:
        tensors[name] = torch.stack([own[name] for own in buffers])
    return Members(path="part", modules=modules, tensors=tensors, streams=streams)


def inputs_of(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    if isinstance(module, nn.Embedding):
        return torch.randint(0, module.num_embeddings, (SLOTS, *shape))
    return torch.randn(SLOTS, *shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CASES)
def test_equals_separate_modules(name: str, training: bool) -> None:
    torch.manual_seed(0)
    make, shape = CASES[name]
    modules = modules_of(make)
    for module in modules:
        module.train(training)
    streams = SlotStreams(SEEDS)
    members = members_of(modules, streams)
    fused = fuse(members)
    x = inputs_of(modules[0], shape)
    rows = [row.detach().clone().requires_grad_(x.requires_grad) for row in x]
    fused_x = x * 1 if x.is_floating_point() else x  # in-place modules may not write to a leaf
    for _ in range(2):  # statistics move
        streams.advance([True] * SLOTS)
        streams.begin_call(training=training)
        y = fused(fused_x * 1)
    weights = torch.randn_like(y[0])
    if y.requires_grad:
        (y * weights).sum().backward()
    for slot, (module, row) in enumerate(zip(modules, rows, strict=True)):
        for step in (1, 2):
            with trial_stream(SEEDS[slot], step, training=training):
                expected = module(row * 1)
        torch.testing.assert_close(y[slot], expected, **EXACT)
        if expected.requires_grad:
            (expected * weights).sum().backward()
        if x.requires_grad:
            assert x.grad is not None
            torch.testing.assert_close(x.grad[slot], row.grad, **EXACT)
        for own, parameter in module.named_parameters():
            found = members.tensors[own].grad
            assert found is not None
            torch.testing.assert_close(found[slot], parameter.grad, **EXACT)
        for own, buffer in module.named_buffers():
            torch.testing.assert_close(members.tensors[own][slot], buffer, **EXACT)


def test_every_fused_class_has_a_case() -> None:
    assert {type(make()) for make, _ in CASES.values()} == set(FUSED)


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([nn.PReLU(), nn.PReLU()], "PReLU 'part' has no fused rule"),
        ([nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)], "'negative_slope' differs between trials 0 and 1"),
        ([nn.Softmax(), nn.Softmax()], "give dim="),
        ([nn.Conv2d(1, 1, 3, padding_mode="reflect")] * 2, "padding_mode='reflect'"),
        ([nn.BatchNorm1d(3, momentum=None)] * 2, "momentum=None"),
        ([nn.BatchNorm1d(3), nn.BatchNorm1d(3, eps=1.0)], "'eps' differs between trials 0 and 1"),
        ([nn.MaxPool2d(2, return_indices=True)] * 2, "return_indices=True"),
        ([nn.Embedding(5, 2, max_norm=1.0)] * 2, "max_norm=1.0"),
        ([nn.Dropout(0.1, inplace=True)] * 2, "inplace=True"),
    ],
)
def test_what_is_not_known_to_be_exact_is_refused(modules: list[nn.Module], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        fuse(members_of([copy.deepcopy(module) for module in modules], SlotStreams([0, 1])))


def test_a_subclass_may_differ_and_is_refused() -> None:
    class Loud(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    with pytest.raises(Refused, match="Loud 'part' has no fused rule"):
        fuse(members_of([Loud(2, 2), Loud(2, 2)], SlotStreams([0, 1])))


def test_an_index_beyond_the_vocabulary_is_an_error_not_a_neighbours_row() -> None:
    fused = fuse(members_of(modules_of(lambda: nn.Embedding(4, 2)), SlotStreams(SEEDS)))
    for wrong in (4, -1):
        with pytest.raises(IndexError):
            fused(torch.full((SLOTS, 2), wrong))


def test_batch_norm_refuses_one_value_per_channel_as_torch_does() -> None:
    fused = fuse(members_of(modules_of(lambda: nn.BatchNorm1d(4)), SlotStreams(SEEDS)))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fused(torch.randn(SLOTS, 1, 4).double())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_a_shared_batch_gives_what_separate_batches_give(groups: int, needs_gradient: bool) -> None:
    """Convolutions take another way when all slots see the same images."""
    modules = modules_of(lambda: nn.Conv2d(2, 4, 3, padding=1, groups=groups))
    fused = fuse(members_of(modules, SlotStreams(SEEDS)))
    x = torch.randn(5, 2, 7, 6, dtype=torch.float64, requires_grad=needs_gradient)
    rows = x.expand(SLOTS, *x.shape)
    if needs_gradient:
        rows.retain_grad()
    found = fused(rows)
    found.sum().backward()
    for slot, module in enumerate(modules):
        alone = x.detach().clone().requires_grad_(needs_gradient)
        expected = module(alone)
        torch.testing.assert_close(found[slot], expected, **EXACT)
        if needs_gradient:
            expected.sum().backward()
            torch.testing.assert_close(rows.grad[slot], alone.grad, **EXACT)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("input_wants", [True, False])
def test_pausable_linear_has_autograds_own_bits(has_bias: bool, input_wants: bool) -> None:
    layers: list[nn.Module] = [nn.Linear(6, 4, bias=has_bias) for _ in range(SLOTS)]
    x = torch.randn(SLOTS, 5, 6, requires_grad=input_wants)

    def run(between: Callable[[], None] | None) -> list[Tensor]:
        fused = fuse(members_of(layers, SlotStreams(SEEDS)))
        fused.between = between
        y = fused(x)
        wanted = [*fused.parameters(), *([x] if input_wants else [])]
        return [y, *torch.autograd.grad((y**3).sum(), wanted)]

    pauses: list[None] = []
    whole, halved = run(None), run(lambda: pauses.append(None))
    assert all(torch.equal(one, other) for one, other in zip(whole, halved, strict=True))
    assert len(pauses) == input_wants
