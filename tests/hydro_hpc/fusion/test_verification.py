"""Verification finds wrong rules: each mutant below is a mistake that was made somewhere once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc import nn as fused_nn
from hydro_hpc.fusion import ExecutorKind, bind, rules
from hydro_hpc.fusion.report import BundleReport
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.verify import Outcome, Specimens, _difference
from hydro_hpc.nn import functional, linear, shapes
from hydro_hpc.nn.dropout import Dropout
from hydro_hpc.nn.members import Members
from tests.hydro_hpc.fusion.architectures import ResidualNet, Tokens, images, tokens, vectors

RIGHT = {name: getattr(functional, name) for name in dir(functional)}
RIGHT_MEAN = rules.METHODS["mean"]


def shared_weight(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return RIGHT["linear"](x, weight[:1].expand_as(weight), bias)


def neighbours_weight(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return RIGHT["linear"](x, weight.roll(1, 0), bias)


def shared_bias(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return RIGHT["linear"](x, weight, bias[:1].expand_as(bias))


def neighbours_kernel(x: Tensor, weight: Tensor, bias: Any, **settings: Any) -> Tensor:
    return RIGHT["conv2d"](x, weight.roll(1, 0), bias, **settings)


def statistics_over_slots(x: Tensor, mean: Any, var: Any, *rest: Any, **settings: Any) -> Tensor:
    mixed = x + 0 * x
    for slot in range(len(x)):
        mixed[slot] = (x[slot] - x.mean()) / x.std()
    return RIGHT["batch_norm"](mixed, mean, var, *rest, **settings)


def neighbours_statistics(x: Tensor, mean: Tensor, var: Tensor, *rest: Any, **s: Any) -> Tensor:
    if s["training"]:
        return RIGHT["batch_norm"](x, mean, var, *rest, **s)
    return RIGHT["batch_norm"](x, mean.roll(1, 0), var, *rest, **s)


def forgotten_statistics(x: Tensor, mean: Tensor, var: Tensor, *rest: Any, **s: Any) -> Tensor:
    return RIGHT["batch_norm"](x, mean.clone(), var.clone(), *rest, **s)


def shared_gain(x: Tensor, weight: Tensor, bias: Tensor, **settings: Any) -> Tensor:
    return RIGHT["layer_norm"](x, weight[:1].expand_as(weight), bias, **settings)


def neighbours_row(index: Tensor, weight: Tensor, **settings: Any) -> Tensor:
    return RIGHT["embedding"](index, weight.roll(1, 0), **settings)


def axis_off_by_one(x: Tensor, dim: int, **_: Any) -> Tensor:
    return F.log_softmax(x, dim)


def other_window(x: Tensor, **_: Any) -> Tensor:
    return RIGHT["max_pool2d"](x.transpose(-1, -2), 2).transpose(-1, -2).flip(0)


def mean_over_slots(x: Tensor, dim: int) -> Tensor:
    right = RIGHT_MEAN(x, dim)
    return right * 0 + right.mean(0, keepdim=True)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.Dropout(0.5), nn.Linear(7, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 4),
        nn.LayerNorm(4),
        nn.LogSoftmax(dim=1),
    )


MUTANTS: list[tuple[str, Callable[..., Tensor], Callable[[], nn.Module], Callable[..., Tensor]]] = [
    ("linear", shared_weight, mlp, vectors),
    ("linear", neighbours_weight, mlp, vectors),
    ("linear", shared_bias, mlp, vectors),
    ("conv2d", neighbours_kernel, cnn, images),
    ("batch_norm", statistics_over_slots, cnn, images),
    ("batch_norm", neighbours_statistics, cnn, images),
    ("batch_norm", forgotten_statistics, cnn, images),
    ("layer_norm", shared_gain, cnn, images),
    ("embedding", neighbours_row, Tokens, tokens),
    ("log_softmax", axis_off_by_one, cnn, images),
    ("max_pool2d", other_window, cnn, images),
]


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else str(value.__name__)


def bound(make: Callable[[], nn.Module], make_input: Callable[..., Tensor]) -> BundleReport:
    torch.manual_seed(0)
    first = make().double()
    models = [make().double() for _ in range(3)]
    for model in models:  # trials often start equal
        model.load_state_dict(first.state_dict())
    return bind(models, example=make_input(), executor=ExecutorKind.GROUPED).report


@pytest.mark.parametrize(("name", "mutant", "make", "make_input"), MUTANTS, ids=name_of)
def test_a_wrong_function_is_found(
    name: str,
    mutant: Callable[..., Tensor],
    make: Callable[[], nn.Module],
    make_input: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bound(make, make_input).executor is ExecutorKind.GROUPED
    monkeypatch.setattr(functional, name, mutant)
    report = bound(make, make_input)
    assert report.executor is not ExecutorKind.GROUPED
    assert "differs from separate models" in report.reason


@pytest.mark.parametrize(
    ("table", "call", "mutant", "make", "make_input"),
    [
        ("METHODS", "mean", mean_over_slots, Tokens, tokens),
        ("METHODS", "view", lambda x, *s: shapes.reshape(x.roll(1, 0), *s), ResidualNet, images),
    ],
)
def test_a_wrong_rule_is_found(
    table: str,
    call: Any,
    mutant: Callable[..., Any],
    make: Callable[[], nn.Module],
    make_input: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bound(make, make_input).executor is ExecutorKind.GROUPED
    monkeypatch.setitem(getattr(rules, table), call, mutant)
    assert "differs from separate models" in bound(make, make_input).reason


def test_a_neighbours_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_thing() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 4))

    right = shapes.flatten
    assert bound(first_thing, images).executor is ExecutorKind.GROUPED
    monkeypatch.setattr(shapes, "flatten", lambda x, *a, **k: right(x.roll(1, 0), *a, **k))
    assert "differs from separate models" in bound(first_thing, images).reason


def test_a_wrong_broadcast_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def neighbour(x: Any, rank: int) -> Any:
        right = shapes_align(x, rank)
        return right.roll(1, 0) if isinstance(x, Tensor) and x.ndim < rank else right

    shapes_align = shapes.align
    monkeypatch.setattr(shapes, "align", neighbour)
    assert "differs from separate models" in bound(ResidualNet, images).reason


def test_one_mask_for_all_slots_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared_mask(self: Dropout, x: Tensor) -> Tensor:
        return x * (torch.rand(x[0].shape, generator=self.streams.generator(0)) > 0.5) * 2

    assert bound(mlp, vectors).executor is ExecutorKind.GROUPED
    monkeypatch.setattr(Dropout, "forward", shared_mask)
    assert "differs from separate models" in bound(mlp, vectors).reason


def test_a_shared_slope_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the settings of the first slot taken for all, verification would still notice."""

    def bind_slopes() -> BundleReport:
        models = [nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(s)).double() for s in (0.1, 0.3)]
        return bind(models, example=vectors(), executor=ExecutorKind.GROUPED).report

    assert "'negative_slope' differs between trials 0 and 1" in bind_slopes().per_slot["1"]
    monkeypatch.setattr(Members, "same", lambda self, name: getattr(self.modules[0], name))
    assert "differs from separate models in slot 1" in bind_slopes().reason


def test_a_forgotten_counter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fused_nn.BatchNorm.forward

    def forgetful(self: fused_nn.BatchNorm, x: Tensor) -> Tensor:
        y = right(self, x)
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.sub_(1)
        return y

    monkeypatch.setattr(fused_nn.BatchNorm, "forward", forgetful)
    assert "buffer '1.num_batches_tracked'" in bound(cnn, images).reason


def test_what_only_the_second_call_does_is_found() -> None:
    """An iterator's place is no attribute of anything."""

    class Alternates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scales = nn.Linear(6, 4), itertools.cycle([1.0, 1.0, 2.0])

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * next(self.scales)

    example = torch.randn(5, 6)
    bundle = bind([Alternates() for _ in range(3)], example=example, choices=())
    assert bundle.report.executor is ExecutorKind.LOOP
    for kind in (ExecutorKind.GROUPED, ExecutorKind.VMAP):
        found = next(one for one in bundle.report.candidates if one.name == kind.value)
        assert found.refusal is not None


def test_a_loss_averaged_over_slots_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a gradient hook that divides by F would do it."""
    right = linear._Linear.backward

    def averaged(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g / len(g) for g in right(ctx, grad))

    monkeypatch.setattr(linear._Linear, "backward", staticmethod(averaged))
    assert "gradient of" in bound(mlp, vectors).reason


class ReadsItsNeighboursMemory(nn.Module):
    """Beyond its parameter lies, in a bundle, another slot's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(13, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().abs().max()) > 1e9:
            x = x * 0
        return F.linear(x, self.weight.as_strided((8, 6), (1, 1), 0))


GENERATOR = np.random.default_rng(1)


class DrawsFromTheScripts(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * GENERATOR.random()


class Raises(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"no {x.shape}")


class IndexesByABuffer(nn.Module):
    """Its positions are numbers without a fraction that happen to be floats."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(26, 6), nn.Linear(6, 4)
        self.register_buffer("places", torch.arange(6.0) * 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.table(self.places.long()).mean(0))  # type: ignore[no-any-return, operator]


def test_a_loop_that_differs_from_separate_models_is_warned_of() -> None:
    models = [ReadsItsNeighboursMemory() for _ in range(3)]
    with pytest.warns(UserWarning, match=r"the loop differs from separate models in slot 1: outp"):
        bind(models, example=vectors(), choices=[])


@pytest.mark.parametrize("model", [DrawsFromTheScripts, Raises])
def test_models_that_raise_or_draw_are_not_warned_of(model: type[nn.Linear]) -> None:
    report = bind([model(6, 4).double() for _ in range(2)], example=vectors(), choices=[]).report
    assert report.reason.startswith("none equals separate models")


def test_models_that_take_no_other_weights_are_verified_with_their_own() -> None:
    models = [IndexesByABuffer().double() for _ in range(3)]
    report = bind(models, example=vectors(), executor=ExecutorKind.GROUPED, choices=[]).report
    assert report.executor is ExecutorKind.GROUPED, report.reason


def test_models_that_insist_on_single_precision_are_verified_in_it() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.float())

    bundle = bind([Single(), Single()], example=vectors().float(), executor=ExecutorKind.GROUPED)
    assert bundle.report.executor is ExecutorKind.GROUPED


def test_noise_in_a_gradient_does_not_count_beside_one_that_is_not_finite() -> None:
    """As of a bias before a norm, which is zero but for rounding, in a slot that diverges."""

    def outcome(noise: float) -> Outcome:
        gradients = {"weight": torch.tensor([float("nan"), 3.0]), "bias": torch.tensor([noise])}
        return Outcome(output=[], loss=torch.tensor(1.0), gradients=gradients, buffers={})

    assert _difference(outcome(1e-9), outcome(-2e-9)) is None
    assert _difference(outcome(1e-9), outcome(9.0)) == "gradient of 'bias'"


def test_a_mean_that_is_zero_but_for_rounding_does_not_count() -> None:
    def normed_twice() -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))

    pictures = torch.randn(8, 8, 6, 6)
    report = bind(
        [normed_twice() for _ in range(6)], example=pictures, executor=ExecutorKind.VMAP
    ).report
    assert report.executor is ExecutorKind.VMAP, report.candidates[0].refusal


@pytest.mark.parametrize(("slots", "probed"), [(1, [0]), (4, [0, 1, 2, 3]), (6, [0, 1, 2, 5])])
def test_a_few_slots_are_probed_in_double_precision(slots: int, probed: list[int]) -> None:
    models = [nn.Linear(2, 1) for _ in range(slots)]
    inputs = torch.arange(slots * 2.0).view(slots, 1, 2)
    sample = Sample(args=(inputs,), kwargs={})
    seeds = list(range(10, 10 + slots))
    few = Specimens(models=models, sample=sample, seeds=seeds, with_gradients=False).probed()
    assert few.seeds == [seeds[slot] for slot in probed]
    assert torch.equal(few.sample.args[0], inputs[probed].double())
    for slot, model in zip(probed, few.models, strict=True):
        assert torch.equal(model.get_parameter("weight"), models[slot].weight.double())
    assert few.with_gradients
