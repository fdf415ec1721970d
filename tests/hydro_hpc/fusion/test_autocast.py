"""Bundles under autocast: what they give is what separate models give under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind, choice, losses
from tests.hydro_hpc.fusion.architectures import build

SLOTS = 3
RATES = [1e-3, 3e-3, 2e-3]
LOWEST = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # the rounding of one number


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(SLOTS, 10, 6), torch.randint(0, 4, (SLOTS, 10))


def bound(models: list[nn.Module], kind: ExecutorKind, dtype: torch.dtype | None) -> Bundle:
    inputs, targets = data()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        bundle = bind(models, (inputs[0], targets[0]), F.cross_entropy, executor=kind)
    assert bundle.report.executor is kind, bundle.report.candidates[0].refusal
    return bundle


def separate_losses(
    models: list[nn.Module], dtype: torch.dtype, x: Tensor, y: Tensor, steps: int
) -> Tensor:
    """[steps, slots] of separate models that train under autocast."""
    optimizers = [torch.optim.AdamW(m.parameters(), lr=lr) for m, lr in zip(models, RATES)]  # noqa: B905
    found = []
    for _ in range(steps):
        row = []
        for model, optimizer, own_x, own_y in zip(models, optimizers, x, y, strict=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = F.cross_entropy(model(own_x), own_y)
            loss.backward()
            optimizer.step()
            row.append(loss.detach())
        found.append(torch.stack(row))
    return torch.stack(found)


def bundle_losses(bundle: Bundle, dtype: torch.dtype, x: Tensor, y: Tensor, steps: int) -> Tensor:
    optimizer = optim.AdamW(bundle, lr=RATES)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            values = losses(F.cross_entropy, bundle(x), y)
        values.sum().backward()
        optimizer.step()
        found.append(values.detach())
    return torch.stack(found)


@pytest.mark.parametrize("dtype", LOWEST)
@pytest.mark.parametrize("make", [perceptron, convolutions])
@pytest.mark.parametrize("kind", [ExecutorKind.GROUPED, ExecutorKind.LOOP])
def test_training_equals_that_of_separate_models(
    kind: ExecutorKind, make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    models = [model.float() for model in build(make, SLOTS)]
    x, y = data()
    found = bundle_losses(bound(models, kind, dtype), dtype, x, y, steps=20)
    expected = separate_losses(models, dtype, x, y, steps=20)
    assert found.dtype is expected.dtype
    torch.testing.assert_close(found, expected, rtol=8 * LOWEST[dtype], atol=8 * LOWEST[dtype])
    assert not torch.allclose(found[0], found[-1], atol=0.05)  # it did train


def test_a_bundle_bound_without_is_verified_again_under_autocast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [model.float() for model in build(perceptron, SLOTS)]
    bundle, (x, _) = bound(models, ExecutorKind.GROUPED, None), data()
    verified: list[Any] = []
    monkeypatch.setattr(
        choice.Verification, "refusal", lambda *_: verified.append(torch.is_autocast_enabled("cpu"))
    )
    bundle(x)
    assert verified == []
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            bundle(x)
    assert verified == [True]
    with torch.autocast("cpu", dtype=torch.float16):
        bundle(x)
    assert verified == [True, True]
