"""Every fused module equals F separate torch modules, in both modes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.nn import Members, Refused, SlotStreams, fuse
from hydro_hpc.nn.registry import FUSED
from tests.hydro_hpc.nn.cases import CASES, DROPOUT
from tests.hydro_hpc.nn.separate_modules import (
    EXACT,
    SEEDS,
    SLOTS,
    also_given,
    compare,
    inputs_of,
    members_of,
    modules_of,
)

MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@MODES
@pytest.mark.parametrize("name", CASES)
def test_equals_separate_modules(name: str, training: bool) -> None:
    compare(CASES[name], training=training)


def batch_first(x: Tensor) -> Tensor:
    """The memory that a grouped convolution leaves."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


@MODES
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if len(case.shapes[0]) >= 3])
def test_equals_separate_modules_on_memory_with_the_batch_first(name: str, training: bool) -> None:
    compare(CASES[name], training=training, change=batch_first)


@pytest.mark.parametrize("name", [n for n in DROPOUT if len(DROPOUT[n].shapes[0]) >= 2])
def test_dropout_draws_in_the_order_of_the_memory_as_torch_does(name: str) -> None:
    def turned(x: Tensor) -> Tensor:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    compare(DROPOUT[name], training=True, change_all=turned)


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_taken_by_torchs_names_for_them(name: str) -> None:
    case = CASES[name]
    modules = modules_of(case.make)
    fused = fuse(members_of(modules, SlotStreams(SEEDS))).eval()
    inputs = [x.detach() for x in inputs_of(case)]
    torchs = list(inspect.signature(type(modules[0]).forward).parameters)[1:]
    named = also_given(case, fused=True)
    expected = fused(*[x.clone() for x in inputs], **named)  # some write into them
    by_name = fused(**dict(zip(torchs, inputs, strict=False)), **named)
    torch.testing.assert_close(by_name, expected, rtol=0, atol=0)


def test_every_fused_class_has_a_case() -> None:
    assert {type(case.make()) for case in CASES.values()} == set(FUSED)


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([nn.FractionalMaxPool2d(2, 2)] * 2, "FractionalMaxPool2d 'part' has no fused rule"),
        ([nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)], "'negative_slope' differs between trials 0 and 1"),
        ([nn.Softmax(), nn.Softmax()], "give dim="),
        ([nn.BatchNorm1d(3), nn.BatchNorm1d(3, eps=1.0)], "'eps' differs between trials 0 and 1"),
        ([nn.MaxPool2d(2, return_indices=True)] * 2, "return_indices=True"),
        ([nn.Embedding(5, 2, sparse=True)] * 2, "sparse=True"),
        ([nn.Embedding(5, 2, scale_grad_by_freq=True)] * 2, "scale_grad_by_freq=True"),
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


def test_a_tensor_that_is_not_stacked_is_refused() -> None:
    whole = members_of([nn.Linear(2, 2), nn.Linear(2, 2)], SlotStreams([0, 1]))
    tensors = {"weight": whole.tensors["weight"]}
    part = Members(path="part", modules=whole.modules, tensors=tensors, streams=whole.streams)
    with pytest.raises(Refused, match="Linear 'part': its 'bias' is not stacked"):
        fuse(part)


@pytest.mark.parametrize("make", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("wrong", [4, -1])
def test_an_index_beyond_the_vocabulary_is_an_error_not_a_neighbours_row(
    make: Callable[[int, int], nn.Module], wrong: int
) -> None:
    fused = fuse(members_of(modules_of(lambda: make(4, 2)), SlotStreams(SEEDS)))
    index = torch.zeros(SLOTS, 5, 7, dtype=torch.long)
    index[1, 2, 3] = wrong
    with pytest.raises((IndexError, RuntimeError)):
        fused(index)


def test_batch_norm_refuses_one_value_per_channel_as_torch_does() -> None:
    fused = fuse(members_of(modules_of(lambda: nn.BatchNorm1d(4)), SlotStreams(SEEDS)))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fused(torch.randn(SLOTS, 1, 4).double())


def test_batch_norm_has_a_momentum_per_slot() -> None:
    momenta = [0.1, None, 0.7]
    norms: list[nn.Module] = [nn.BatchNorm1d(4, momentum=m).double() for m in momenta]
    members = members_of(norms, SlotStreams(SEEDS))
    fused = fuse(members)
    for _ in range(3):
        x = torch.randn(SLOTS, 5, 4, dtype=torch.float64)
        found = fused(x)
        for slot, norm in enumerate(norms):
            torch.testing.assert_close(found[slot], norm(x[slot]), **EXACT)
            for name, buffer in norm.named_buffers():
                torch.testing.assert_close(members.tensors[name][slot], buffer, **EXACT)


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
