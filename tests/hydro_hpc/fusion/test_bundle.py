"""Slots of a bundle: taken out, idled, replaced, while the others go on."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import ExecutorKind, bind, losses, trial_stream
from tests.hydro_hpc.fusion.architectures import CASES, CLASSES, batch, build, mlp, vectors
from tests.hydro_hpc.fusion.separate_training import (
    Unfused,
    assert_same_state,
    assert_same_training,
    train_bundle,
)

KINDS = list(ExecutorKind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_unbind_gives_the_users_class_with_own_storage(name: str, kind: ExecutorKind) -> None:
    make, make_input = CASES[name]
    bundle = bind(build(make, 3), example=make_input(), executor=kind)
    model = bundle.unbind(1)
    assert type(model) is type(make())
    make().double().load_state_dict(model.state_dict(), strict=True)
    for tensor in [*model.parameters(), *model.buffers()]:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    before = bundle.unbind(1).state_dict()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(t, before[n]) for n, t in bundle.unbind(1).state_dict().items())


def test_unbind_keeps_ties_and_frozen_parameters() -> None:
    make, make_input = CASES["tokens"]
    model = bind(build(make, 2), example=make_input()).unbind(0)
    assert model.read_out.weight is model.embed.weight
    assert not model.frozen.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_replaced_slot_trains_as_alone_and_the_others_go_on(kind: ExecutorKind) -> None:
    torch.manual_seed(5)
    make, make_input = CASES["mlp_with_norms_and_dropout"]
    models = build(make, 4)
    lr = [0.1, 0.05, 0.2, 0.01]
    adam = [partial(torch.optim.Adam, lr=value) for value in lr]
    bundle = bind(models, example=make_input(), seeds=[1, 2, 3, 4], executor=kind)
    optimizer = optim.Adam(bundle, lr=lr)
    trials = [Unfused.of(m, a, s) for m, a, s in zip(models, adam, (1, 2, 3, 4), strict=True)]
    assert_same_training(bundle, optimizer, trials, make_input, 5, CLASSES)
    newcomer = make().double()
    bundle.replace(2, newcomer, seed=99)
    optimizer.reset_slot(2, lr=0.03)
    trials[2] = Unfused.of(newcomer, partial(torch.optim.Adam, lr=0.03), 99)
    assert_same_training(bundle, optimizer, trials, make_input, 5, CLASSES)
    assert bundle.report.executor is kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_takes_the_mode_of_the_bundle(kind: ExecutorKind) -> None:
    make, make_input = CASES["mlp_with_norms_and_dropout"]
    bundle = bind(build(make, 2), example=make_input(), executor=kind)
    bundle.eval()
    newcomer = make().double()
    bundle.replace(1, newcomer, seed=8)
    x = make_input(2)
    torch.testing.assert_close(bundle(x)[1], newcomer.eval()(x[1]))
    assert bundle.report.executor is kind


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_came_frozen_stay_frozen_until_train_is_called(kind: ExecutorKind) -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
        model[1].eval()
        return model

    models = [make(), make()]
    bundle = bind(models, example=vectors(), executor=kind)
    assert bundle.report.executor is kind
    newcomer = make()
    bundle.replace(1, newcomer, seed=3)
    x = vectors(2)
    found = bundle(x)
    for slot, model in enumerate((models[0], newcomer)):
        torch.testing.assert_close(found[slot], model(x[slot]))
    bundle.train()
    found = bundle(x)
    for slot, model in enumerate((models[0], newcomer)):
        torch.testing.assert_close(found[slot], model.train()(x[slot]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_between_backward_and_step_gets_no_old_gradient(kind: ExecutorKind) -> None:
    bundle = bind(build(mlp, 3), example=vectors(), executor=kind)
    optimizer = optim.SGD(bundle, lr=0.5, weight_decay=0.1)
    x, y = batch(3)
    losses(F.cross_entropy, bundle(x), y).sum().backward()
    newcomer = mlp().double()
    bundle.replace(1, newcomer, seed=5)
    untouched = bundle.unbind(0).state_dict()
    optimizer.step()
    assert_same_state(bundle.unbind(1), newcomer)
    moved = bundle.unbind(0).state_dict()
    assert not any(torch.equal(moved[name], value) for name, value in untouched.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_between_forward_and_backward_leaves_the_others_alone(
    kind: ExecutorKind,
) -> None:
    models = build(mlp, 3)
    bundle = bind(models, example=vectors(), executor=kind)
    optimizer = optim.SGD(bundle, lr=0.5, weight_decay=0.1)
    trials = [Unfused.of(m, partial(torch.optim.SGD, lr=0.5, weight_decay=0.1), 0) for m in models]
    x, y = batch(3)
    found = losses(F.cross_entropy, bundle(x), y)
    newcomer = mlp().double()
    bundle.replace(1, newcomer, seed=5)
    found.sum().backward()
    optimizer.step()
    assert_same_state(bundle.unbind(1), newcomer)
    for slot in (0, 2):
        trials[slot].train(x[slot], y[slot])
        assert_same_state(bundle.unbind(slot), trials[slot].model)


@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_slot_stays_as_it_is_and_disturbs_nobody(kind: ExecutorKind) -> None:
    torch.manual_seed(6)
    models = build(mlp, 3)
    bundle = bind(models, example=vectors(), executor=kind)
    optimizer = optim.Adam(bundle, lr=0.1)
    trials = [Unfused.of(m, partial(torch.optim.Adam, lr=0.1), 0) for m in models]
    for part in (1, 2):
        for _ in range(part):
            x, y = batch(3)
            x[1] = torch.nan if part == 2 else x[1]
            found = train_bundle(bundle, optimizer, x, y)
            for slot in (0, 2) if part == 2 else (0, 1, 2):
                assert abs(found[slot] - trials[slot].train(x[slot], y[slot])) < 1e-10
        bundle.idle(1)
    assert bundle.active == [True, False, True]
    for slot, trial in enumerate(trials):
        assert_same_state(bundle.unbind(slot), trial.model)
    steps = [optimizer.slot_state(slot)["state"][0]["step"].item() for slot in range(3)]
    assert steps == [3.0, 1.0, 3.0]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_an_idle_slot_stay(kind: ExecutorKind) -> None:
    make, make_input = CASES["cnn"]
    bundle = bind(build(make, 3), example=make_input(), executor=kind)
    bundle(make_input(3))
    bundle.idle(1)
    before = [bundle.unbind(slot).state_dict() for slot in range(3)]
    bundle(make_input(3))
    for slot, state in enumerate(before):
        after = bundle.unbind(slot).state_dict()
        stays = all(torch.equal(after[name], tensor) for name, tensor in state.items())
        assert stays is (slot == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_train_on_beside_an_idle_slot(kind: ExecutorKind) -> None:
    make, make_input = CASES["cnn"]
    models = build(make, 3)
    bundle = bind(models, example=make_input(), executor=kind)
    bundle.idle(1)
    x = make_input(3)
    bundle(x).sum().backward()
    [gradient] = bundle.gradients()
    for slot in (0, 2):
        models[slot](x[slot]).sum().backward()
        expected = torch.cat([p.grad.reshape(-1) for p in models[slot].parameters()])
        torch.testing.assert_close(gradient.values[slot], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_in_one_slot_leaves_the_others_bit_identical(kind: ExecutorKind) -> None:
    models = build(mlp, 3)
    results = []
    for poison in (False, True):
        torch.manual_seed(7)
        bundle = bind(models, example=vectors(), executor=kind)
        optimizer = optim.Adam(bundle, lr=0.1)
        for _ in range(3):
            x, y = batch(3)
            x[1] = torch.nan if poison else x[1]
            train_bundle(bundle, optimizer, x, y)
        results.append([bundle.unbind(slot).state_dict() for slot in range(3)])
    for slot in (0, 2):
        assert all(torch.equal(results[0][slot][n], t) for n, t in results[1][slot].items())
    assert all(t.isnan().any() for t in results[1][1].values())


def test_a_replacement_that_makes_other_calls_sends_the_bundle_to_the_loop() -> None:
    class Optional(nn.Module):
        def __init__(self, skip: bool) -> None:
            super().__init__()
            self.fc, self.drop, self.skip = nn.Linear(6, 6), nn.Dropout(0.5), skip

        def forward(self, x: Tensor) -> Tensor:
            y = self.drop(self.fc(x))
            return y + x if self.skip else y

    bundle = bind(
        [Optional(False).double(), Optional(False).double()],
        example=vectors(),
        executor=ExecutorKind.GROUPED,
    )
    newcomer = Optional(True).double()
    bundle.replace(1, newcomer, seed=3)
    assert bundle.report.executor is ExecutorKind.LOOP
    assert "slot 1's new trial makes other calls" in bundle.report.reason
    assert all(module.training for module in bundle.unbind(1).modules())
    x = vectors(2)
    with trial_stream(3, 0):
        expected = newcomer(x[1])
    torch.testing.assert_close(bundle(x)[1], expected)


def test_a_replacement_with_other_settings_sends_the_bundle_to_the_loop() -> None:
    def make(slope: float) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(slope)).double()

    bundle = bind([make(0.1)], example=vectors(), executor=ExecutorKind.GROUPED)
    newcomer = make(0.3)
    bundle.replace(0, newcomer, seed=3)
    x = vectors(1)
    torch.testing.assert_close(bundle(x)[0], newcomer(x[0]))
    assert bundle.report.executor is ExecutorKind.LOOP


def test_replace_refuses_another_shape() -> None:
    bundle = bind(build(mlp, 2), example=vectors())
    other = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()
    with pytest.raises(FusionError, match=r"parameter '0.weight' is \[8, 6\] there and \[9, 6\]"):
        bundle.replace(0, other, seed=0)
