"""Models that raise in their slot, and executors that raise where no model does."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import Bundle, ExecutorKind, bind
from hydro_hpc.fusion.inputs import InputForm
from tests.hydro_hpc.fusion.architectures import CLASSES, batch, build, vectors
from tests.hydro_hpc.fusion.separate_training import (
    Unfused,
    assert_same_state,
    train_bundle,
)

KINDS = list(ExecutorKind)


class RaisesOnNegative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if (x < -100).any():
            raise ValueError("too cold")
        return self.fc(x)


def test_a_model_that_raises_fails_alone() -> None:
    models = build(RaisesOnNegative, 3)
    bundle = bind(models, example=vectors(), executor=ExecutorKind.LOOP)
    optimizer = optim.SGD(bundle, lr=0.1)
    trials = [Unfused.of(m, partial(torch.optim.SGD, lr=0.1), 0) for m in models]
    x, y = batch(3)
    x[1] = -1000.0
    found = train_bundle(bundle, optimizer, x, y)
    assert str(bundle.failures[1]) == "too cold"
    assert bundle.active == [True, False, True]
    assert found[1] != found[1]
    for slot in (0, 2):
        assert abs(found[slot] - trials[slot].train(x[slot], y[slot])) < 1e-10
    for slot, trial in enumerate(trials):
        assert_same_state(bundle.unbind(slot), trial.model)
    bundle.replace(1, RaisesOnNegative().double(), seed=1)
    assert bundle.failures == {}
    assert bundle.active == [True, True, True]


class LooksUp(nn.Module):
    """With statistics that a first try must not leave changed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.table = nn.BatchNorm1d(6), nn.Embedding(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(self.norm(x)[:, 0].detach().abs().long() + x[:, 1].long())


def looking_up(kind: ExecutorKind) -> tuple[Bundle, optim.SGD, list[Unfused]]:
    """A bundle of such models, and each one's training alone."""
    torch.manual_seed(7)
    models = build(LooksUp, 3)
    bundle = bind(models, example=vectors().abs() % 1, executor=kind)
    trials = [Unfused.of(m, partial(torch.optim.SGD, lr=0.1), 0) for m in models]
    return bundle, optim.SGD(bundle, lr=0.1), trials


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_that_raises_leaves_the_others_bit_identical(kind: ExecutorKind) -> None:
    models = build(LooksUp, 3)
    results = []
    for poison in (0.0, 100.0):
        torch.manual_seed(7)
        bundle = bind(models, example=vectors().abs() % 1, executor=kind)
        optimizer = optim.SGD(bundle, lr=0.1)
        for step in range(3):
            x, y = batch(3)
            x = x.abs() % 1
            x[1] += poison * (step == 1)
            train_bundle(bundle, optimizer, x, y)
        assert bundle.active == [True, not poison, True]
        results.append([bundle.unbind(slot).state_dict() for slot in range(3)])
    for slot in (0, 2):
        for name, tensor in results[1][slot].items():
            torch.testing.assert_close(tensor, results[0][slot][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("was_idle", [False, True])
@pytest.mark.parametrize("kind", [ExecutorKind.GROUPED, ExecutorKind.VMAP])
def test_inputs_that_made_a_slot_raise_cost_one_run_more_and_no_others(
    kind: ExecutorKind, was_idle: bool
) -> None:
    bundle, optimizer, trials = looking_up(kind)
    runs: list[ExecutorKind] = []
    for executor in (bundle._loop, bundle._chosen):
        run = executor.run
        executor.run = lambda form, run=run, executor=executor: (  # type: ignore[method-assign]
            runs.append(executor.kind) or run(form)  # type: ignore[func-returns-value]
        )
    if was_idle:
        bundle.idle(1)

    def train(num_steps: int, poison: float, slots: list[int]) -> None:
        for _ in range(num_steps):
            x, y = batch(3)
            x = x.abs() % 1
            x[1] += poison
            train_bundle(bundle, optimizer, x, y)
            for slot in slots:
                trials[slot].train(x[slot], y[slot])
                assert_same_state(bundle.unbind(slot), trials[slot].model)

    train(4, 100.0, [0, 2])
    assert runs == [kind, ExecutorKind.LOOP, kind, kind, kind]
    assert list(bundle.failures) == ([] if was_idle else [1])
    newcomer = LooksUp().double()
    bundle.replace(1, newcomer, seed=0)
    optimizer.reset_slot(1)
    trials[1] = Unfused.of(newcomer, partial(torch.optim.SGD, lr=0.1), 0)
    train(2, 0.0, [0, 1, 2])
    assert runs[-2:] == [kind, kind]
    assert bundle.report.executor is kind


@pytest.mark.parametrize("kind", [ExecutorKind.GROUPED, ExecutorKind.VMAP])
def test_what_raises_where_no_model_does_is_run_once(
    kind: ExecutorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, optimizer, trials = looking_up(kind)
    runs: list[str] = []

    def run(_form: InputForm) -> None:
        runs.append("run")
        raise MemoryError("no room for all slots at once")

    monkeypatch.setattr(bundle._chosen, "run", run)
    for _ in range(3):
        x, y = batch(3)
        x = x.abs() % 1
        train_bundle(bundle, optimizer, x, y)
        for slot, trial in enumerate(trials):
            trial.train(x[slot], y[slot])
            assert_same_state(bundle.unbind(slot), trial.model)
    assert runs == ["run"]
    assert bundle.failures == {}
    assert bundle.report.executor is ExecutorKind.LOOP
    assert bundle.report.reason == (
        "it raised MemoryError where separate models do not: no room for all slots at once"
    )


def test_a_spared_slot_gets_what_another_gets_and_gives_it_no_gradient() -> None:
    x = torch.arange(6.0).view(3, 2).requires_grad_()
    shared = torch.rand(2).expand(3, 2)
    form = InputForm.of((x, 5, shared), {})
    own, number, same = form.beside([False, True, False], {0}).args
    assert own.tolist() == [[2.0, 3.0], [2.0, 3.0], [4.0, 5.0]]
    assert (number, same) == (5, shared)
    own[0].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0] * 2] * 3
    assert form.beside([True] * 3, {0}) is form  # it has a trial again
    assert form.beside([False] * 3, {0}) is form


def test_what_the_last_model_raised_is_raised() -> None:
    bundle = bind(build(RaisesOnNegative, 2), example=vectors())
    with pytest.raises(FusionError, match="slot 0 raised ValueError: too cold"):
        bundle(vectors(2) * 0 - 1000)
