"""In single precision rounding grows with the steps. A bundle may drift from separate models as far
as these do from themselves if their initial weights change by one unit in the last place."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.fusion import ExecutorKind, bind
from tests.hydro_hpc.fusion.architectures import CASES, CLASSES, build
from tests.hydro_hpc.fusion.separate_training import Unfused, train_bundle

SLOTS, STEPS, NUDGES = 3, 50, 6
SEEDS = [101, 7, 33]
LR = [0.02, 0.05, 0.01]
SINGLE = {name: case for name, case in CASES.items() if name != "tokens"}


def nudged(model: nn.Module, number: int) -> nn.Module:
    """Every weight one unit in the last place up or down, each time other ones."""
    copied = copy.deepcopy(model)
    signs = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for p in copied.parameters():
            up = torch.rand(p.shape, generator=signs) < 0.5
            towards = torch.where(up, torch.full_like(p, 1e9), torch.full_like(p, -1e9))
            p.copy_(torch.nextafter(p, towards))
    return copied


def separate_losses(models: list[nn.Module], batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """[steps, slots]"""
    trials = [
        Unfused.of(model, partial(torch.optim.SGD, lr=lr, momentum=0.9), seed)
        for model, lr, seed in zip(models, LR, SEEDS, strict=True)
    ]
    rows = [[trial.train(x[n], y[n]) for n, trial in enumerate(trials)] for x, y in batches]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize("name", SINGLE)
def test_a_bundle_drifts_no_further_than_rounding(name: str, kind: ExecutorKind) -> None:
    torch.manual_seed(5)
    make, make_input = CASES[name]
    models = [model.float() for model in build(make, SLOTS)]
    inputs = [make_input(SLOTS) for _ in range(STEPS)]
    batches = [
        (x.float() if x.is_floating_point() else x, torch.randint(0, CLASSES, x.shape[:2]))
        for x in inputs
    ]
    bundle = bind(models, example=batches[0][0][0], seeds=SEEDS, executor=kind)
    assert bundle.report.executor is kind, bundle.report
    optimizer = optim.SGD(bundle, lr=LR, momentum=0.9)
    found = torch.tensor(
        [train_bundle(bundle, optimizer, x, y) for x, y in batches], dtype=torch.float64
    )
    expected = separate_losses(models, batches)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0.0)
    nudges = [
        separate_losses([nudged(m, SLOTS * n + slot) for slot, m in enumerate(models)], batches)
        for n in range(NUDGES)
    ]
    allowed_T = torch.stack([(one - expected).abs() for one in nudges]).amax((0, 2))
    drift_T = (found - expected).abs().amax(1)
    one_rounding = torch.finfo(torch.float32).eps * expected.abs().max()  # of the loss itself
    # Twice: one drift in seven is the largest of seven by chance alone, on this processor or that.
    assert drift_T[-10:].max() <= 2 * allowed_T[-10:].max() + one_rounding
