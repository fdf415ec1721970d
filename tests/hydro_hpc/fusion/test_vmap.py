"""The vmap executor: Python stays alive in it, and what vmap itself gets wrong is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import ExecutorKind, bind, trial_stream
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.trial.meter import Meter
from tests.hydro_hpc.fusion.architectures import tokens, vectors

SEEDS = [5, 9, 2]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)


class LoopsOverRows(Base):
    def forward(self, x: Tensor) -> Tensor:
        rows = [self.fc(row) for row in x]
        return torch.stack(rows) if x.size(0) > 2 else rows[0]


class TiesAndBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.last.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


class Attends(Base):
    def forward(self, x: Tensor) -> Tensor:
        q = self.fc(x).view(x.size(0), 1, 2, 3)
        mask = torch.ones(2, 2, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(q, q * 2, q + 1, attn_mask=mask).flatten(1)


class Draws(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.fc(x), 0.4, self.training)
        x = x + torch.rand(6, dtype=x.dtype) * torch.randn_like(x)
        return F.alpha_dropout(x, 0.3, self.training)


class DropsAttention(Base):
    def forward(self, x: Tensor) -> Tensor:
        q = self.fc(x).unsqueeze(0)
        return F.scaled_dot_product_attention(q, q, q, dropout_p=0.5).squeeze(0)


def bound(make: Callable[[], nn.Module], example: Tensor) -> tuple[list[nn.Module], Bundle]:
    torch.manual_seed(0)
    models = [make().double() for _ in SEEDS]
    bundle = bind(models, example=example, seeds=SEEDS, executor=ExecutorKind.VMAP)
    return models, bundle


@pytest.mark.parametrize("make", [LoopsOverRows, TiesAndBuffers, Attends, Draws, DropsAttention])
def test_equals_separate_models_and_leaves_their_gradients(make: Callable[[], nn.Module]) -> None:
    models, bundle = bound(make, vectors())
    assert bundle.report.executor is ExecutorKind.VMAP, bundle.report
    for _ in range(2):
        x = vectors(3)
        bundle.zero_grad()
        found = bundle(x)
        found.square().sum().backward()
        gradients = bundle.gradients()[0].values
        for slot, (model, seed) in enumerate(zip(models, SEEDS, strict=True)):
            model.zero_grad()
            with trial_stream(seed, 0):
                expected = model(x[slot])
            expected.square().sum().backward()
            torch.testing.assert_close(found[slot], expected, rtol=1e-10, atol=1e-10)
            own = torch.cat([p.grad.flatten() for p in model.parameters()])
            torch.testing.assert_close(gradients[slot], own, rtol=1e-10, atol=1e-10)
            for name, buffer in bundle.unbind(slot).named_buffers():
                torch.testing.assert_close(buffer, dict(model.named_buffers())[name])
        bundle.stepped()
        bundle.streams.steps = [0] * 3  # the same draws again


class Looks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)

    def forward(self, index: Tensor) -> Tensor:
        return self.table(index) if index.size(0) else self.table.weight


def test_an_index_beyond_the_vocabulary_is_an_error_not_a_neighbours_row() -> None:
    _, bundle = bound(Looks, tokens())
    assert bundle.report.executor is ExecutorKind.VMAP
    with pytest.raises(FusionError, match="slot 0 raised IndexError"):
        bundle(torch.full((3, 5, 7), 11))


class Scaled(Base):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale


def test_models_that_differ_in_a_python_attribute_are_refused() -> None:
    models = [Scaled(1.0), Scaled(2.0)]
    report = bind(models, example=vectors().float(), executor=ExecutorKind.VMAP).report
    assert report.executor is not ExecutorKind.VMAP
    assert report.candidates[0].refusal == "the attribute 'scale' differs between trials 0 and 1"


def test_a_newcomer_with_another_attribute_sends_the_bundle_to_the_loop() -> None:
    _, bundle = bound(lambda: Scaled(1.0), vectors())
    newcomer = Scaled(3.0).double()
    bundle.replace(1, newcomer, seed=4)
    assert bundle.report.executor is ExecutorKind.LOOP
    x = vectors(3)
    torch.testing.assert_close(bundle(x)[1], newcomer(x[1]))


def test_a_newcomer_like_the_others_stays() -> None:
    _, bundle = bound(LoopsOverRows, vectors())
    newcomer = LoopsOverRows().double()
    bundle.replace(2, newcomer, seed=4)
    assert bundle.report.executor is ExecutorKind.VMAP
    x = vectors(3)
    torch.testing.assert_close(bundle(x)[2], newcomer(x[2]))


class Admitted:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def admit(self, need_ns: int) -> None:
        del need_ns
        self.asked += 1


def test_its_modules_are_places_to_pause_forward_and_backward() -> None:
    models, bundle = bound(LoopsOverRows, vectors())
    gate = Admitted()
    meter = Meter(gate, unit_ns=1)
    meter.hook({str(n): leaf for n, leaf in enumerate(bundle.leaves())})
    meter.begin()
    output = bundle(vectors(3))
    forward = gate.asked
    output.sum().backward()
    meter.end()
    assert forward == 1 + 5  # the step's begin, and one call per row
    assert gate.asked - forward == 5
    copied = bundle.unbind(0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in copied.modules())
    torch.testing.assert_close(copied(vectors()).shape, models[0](vectors()).shape)
