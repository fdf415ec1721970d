"""A bundle trains every trial as it would train alone, in both executors."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from hydro_hpc import optim
from hydro_hpc.fusion import ExecutorKind, bind
from tests.hydro_hpc.fusion.architectures import CASES, CLASSES, build, randomize_buffers
from tests.hydro_hpc.fusion.separate_training import Unfused, assert_same_training

SLOTS = 3
SEEDS = [101, 7, 33]
LR = [0.05, 0.2, 0.01]


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_of_adam_equal_separate_models(name: str, kind: ExecutorKind) -> None:
    torch.manual_seed(1)
    make, make_input = CASES[name]
    models = build(make, SLOTS)
    betas = [(0.9, 0.99), (0.5, 0.999), (0.8, 0.9)]
    bundle = bind(models, example=make_input(), seeds=SEEDS, executor=kind)
    assert bundle.report.executor is kind, bundle.report
    optimizer = optim.Adam(bundle, lr=LR, betas=betas, weight_decay=[0.0, 0.1, 0.0])
    trials = [
        Unfused.of(m, partial(torch.optim.Adam, lr=lr, betas=b, weight_decay=wd), seed)
        for m, lr, b, wd, seed in zip(models, LR, betas, [0.0, 0.1, 0.0], SEEDS, strict=True)
    ]
    assert_same_training(bundle, optimizer, trials, make_input, 20, CLASSES)


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_of_sgd_equal_separate_models(name: str, kind: ExecutorKind) -> None:
    torch.manual_seed(2)
    make, make_input = CASES[name]
    models = build(make, SLOTS)
    momentum, nesterov = [0.0, 0.9, 0.5], [False, True, False]
    bundle = bind(models, example=make_input(), seeds=SEEDS, executor=kind)
    optimizer = optim.SGD(bundle, lr=LR, momentum=momentum, nesterov=nesterov)
    trials = [
        Unfused.of(m, partial(torch.optim.SGD, lr=lr, momentum=mu, nesterov=n), seed)
        for m, lr, mu, n, seed in zip(models, LR, momentum, nesterov, SEEDS, strict=True)
    ]
    assert_same_training(bundle, optimizer, trials, make_input, 20, CLASSES)


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize("name", CASES)
def test_evaluation_equals_separate_models(name: str, kind: ExecutorKind) -> None:
    torch.manual_seed(3)
    make, make_input = CASES[name]
    models = build(make, SLOTS)
    randomize_buffers(models)
    bundle = bind(models, example=make_input(), seeds=SEEDS, executor=kind)
    bundle.eval()
    x = make_input(SLOTS)
    with torch.no_grad():
        found, found_shared = bundle(x), bundle.shared(x[0])
    for slot, model in enumerate(models):
        model.eval()
        torch.testing.assert_close(found[slot], model(x[slot]), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found_shared[slot], model(x[0]), rtol=1e-10, atol=1e-10)


def test_training_goes_on_exactly_after_an_evaluation() -> None:
    torch.manual_seed(4)
    make, make_input = CASES["mlp_with_norms_and_dropout"]
    models = build(make, SLOTS)
    bundle = bind(models, example=make_input(), seeds=SEEDS, executor=ExecutorKind.GROUPED)
    optimizer = optim.SGD(bundle, lr=LR)
    trials = [
        Unfused.of(m, partial(torch.optim.SGD, lr=lr), seed)
        for m, lr, seed in zip(models, LR, SEEDS, strict=True)
    ]
    for _ in range(3):
        assert_same_training(bundle, optimizer, trials, make_input, 2, CLASSES)
        bundle.eval()
        bundle.shared(make_input())
        bundle.train()


def test_the_models_that_were_bound_are_not_changed() -> None:
    make, make_input = CASES["cnn"]
    models = build(make, SLOTS)
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in models]
    bundle = bind(models, example=make_input(), seeds=SEEDS)
    bundle(make_input(SLOTS)).sum().backward()
    optim.SGD(bundle, lr=1.0).step()
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
