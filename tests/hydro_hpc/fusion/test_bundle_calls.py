"""Calls of a bundle: what goes in and out, what is verified again, gradients, what it refuses."""

from __future__ import annotations

import contextvars
import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import Bundle, ExecutorKind, bind, choice, losses, sampled_calls
from hydro_hpc.optim import SlotAverage, clip_grad_norm_
from tests.hydro_hpc.fusion.architectures import TwoInputs, batch, build, mlp, vectors

KINDS = list(ExecutorKind)


def test_trees_of_inputs_and_outputs() -> None:
    models = build(TwoInputs, 3)
    a, b = torch.randn(3, 5, 3).double(), torch.randn(3, 5, 2).double()
    for kind in KINDS:
        bundle = bind(models, example=(a[0], b[0]), executor=kind)
        assert bundle.report.executor is kind
        found = bundle(a, b)
        for slot, model in enumerate(models):
            expected = model(a[slot], b[slot])
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name][slot], value)


def test_without_an_example_the_first_call_chooses() -> None:
    models = build(mlp, 2)
    bundle = bind(models)
    assert bundle.report.executor is None
    x = vectors(2)
    with torch.no_grad():
        found = bundle(x)
    assert bundle.report.executor is not None
    torch.testing.assert_close(found[1], models[1](x[1]))


SWITCH = [1.0]


class ReadsASwitch(nn.Module):
    """Reads what is not its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.fc(x), dim=-1) * SWITCH[0]


def test_a_value_from_outside_that_changes_is_read_again() -> None:
    models = build(ReadsASwitch, 2)
    bundle = bind(models, example=vectors(), executor=ExecutorKind.GROUPED)
    x = vectors(2)
    for value in (1.0, 2.0, 2.0, 3.0, 1.0):
        SWITCH[0] = value
        torch.testing.assert_close(bundle(x)[0], models[0](x[0]))
        assert bundle.report.executor is ExecutorKind.GROUPED


def test_one_that_changes_all_the_time_is_left_to_the_loop() -> None:
    models = build(ReadsASwitch, 2)
    bundle = bind(models, example=vectors(), executor=ExecutorKind.GROUPED)
    x = vectors(2)
    for step in range(40):
        SWITCH[0] = 1.0 + step
        torch.testing.assert_close(bundle(x)[1], models[1](x[1]))
    assert bundle.report.executor is ExecutorKind.LOOP
    assert "more than 32 graphs" in bundle.report.reason
    SWITCH[0] = 1.0


HIDDEN = contextvars.ContextVar("factor", default=1.0)


class ReadsTheContext(ReadsASwitch):
    """What it reads is not found by looking at the variable."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * HIDDEN.get()  # type: ignore[no-any-return]


def test_a_change_that_nobody_saw_is_found_in_a_sampled_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampled_calls, "FIRST", 4)
    models = build(ReadsTheContext, 2)
    bundle = bind(models, example=vectors(), executor=ExecutorKind.GROUPED)
    x = vectors(2)
    bundle(x)
    HIDDEN.set(2.0)
    assert not torch.allclose(bundle(x)[1], models[1](x[1]))
    bundle(x)
    assert bundle.report.executor is ExecutorKind.GROUPED
    torch.testing.assert_close(bundle(x)[1], models[1](x[1]))  # the fourth
    assert bundle.report.executor is ExecutorKind.LOOP
    assert bundle.report.reason.startswith("differs from separate models in slot 0")
    HIDDEN.set(1.0)


@pytest.mark.parametrize("why", ["idle", "told"])
def test_no_call_is_sampled_with_idle_slots_or_if_told(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_calls, "FIRST", 1)
    bundle = bind(build(mlp, 2), example=vectors(), executor=ExecutorKind.GROUPED)
    monkeypatch.setattr(choice.Verification, "refusal", lambda *_: "differs")
    bundle.samples_calls = why != "told"
    if why == "idle":
        bundle.idle(0)
    bundle(vectors(2))
    assert bundle.report.executor is ExecutorKind.GROUPED


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_may_be_cleared_between_forward_and_backward(kind: ExecutorKind) -> None:
    models = build(mlp, 2)
    bundle = bind(models, example=vectors(), executor=kind)
    x = vectors(2)
    for _ in range(2):
        loss = losses(lambda y, _: y.square().sum(), bundle(x), x).sum()
        bundle.zero_grad()
        loss.backward()
    [gradient] = bundle.gradients()
    assert gradient.present is None
    for slot, model in enumerate(models):
        model(x[slot]).square().sum().backward()
        wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(gradient.values[slot], wanted)


class BranchesInside(nn.Module):
    """Runs once per slot, as the only part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x if x.sum() > 1e9 else x) @ self.weight


class Looks(nn.Module):
    """Raises where an index is out of range."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inside, self.fc = nn.Embedding(5, 6), BranchesInside(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.inside(self.embed(x)))


@pytest.mark.parametrize("clips", [False, True])
def test_leaves_that_the_loop_shares_are_counted_once_when_a_slot_raises(clips: bool) -> None:
    models = build(Looks, 3)
    x = torch.randint(0, 5, (3, 4))
    bundle = bind(models, example=x[0], executor=ExecutorKind.GROUPED)
    assert bundle.report.per_slot
    x[2, 0] = 99
    bundle(x)[:2].square().sum().backward()
    if clips:
        clip_grad_norm_(bundle, 1e9)
    [gradient] = bundle.gradients()
    assert list(bundle.failures) == [2]
    for slot, model in enumerate(models[:2]):
        model(x[slot]).square().sum().backward()
        wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(gradient.values[slot], wanted)


class Grows(nn.Module):
    """A buffer that keeps all it has seen."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)
        self.register_buffer("seen", torch.zeros(length))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        self.seen = torch.cat([self.seen, y.detach().mean()[None]])
        return y


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_buffer_that_grows_is_an_error(length: int) -> None:
    bundle = bind(build(lambda: Grows(length), 2), example=vectors())
    optimizer = optim.SGD(bundle)
    bundle(vectors(2)).sum().backward()
    with pytest.raises(FusionError, match=r"'seen' in slot 0 the shape \[\d\], not \[\d\]"):
        optimizer.step()


def test_what_is_bound_and_grown_in_an_evaluation_trains() -> None:
    with torch.inference_mode():
        bundle = bind(build(mlp, 2), example=vectors(), executor=ExecutorKind.GROUPED)
        bundle.grow(3)
    optimizer = optim.SGD(bundle)
    for _ in range(2):
        bundle(vectors(3))[:2].sum().backward()
        optimizer.step()


def test_what_an_evaluation_takes_out_of_a_bundle_trains() -> None:
    bundle = bind(build(mlp, 2), example=vectors(), executor=ExecutorKind.GROUPED)
    with torch.inference_mode():
        models = [bundle.unbind(0), SlotAverage(bundle).unbind(1)]
    for model in models:
        model(vectors()).sum().backward()
        torch.optim.SGD(model.parameters()).step()


def test_a_new_shape_is_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    models = build(ReadsASwitch, 2)
    bundle = bind(models, example=vectors(), executor=ExecutorKind.GROUPED)
    x = torch.randn(2, 5, 3, 6).double()
    monkeypatch.setattr(choice.Verification, "refusal", lambda *_: "other than alone")
    torch.testing.assert_close(bundle(x)[0], models[0](x[0]))
    assert bundle.report.executor is ExecutorKind.LOOP
    assert bundle.report.reason == "other than alone"


class ReadsAgain(nn.Module):
    """What the activation overwrites is read once more, or not."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.norm, self.relu, self.again = nn.BatchNorm1d(6), nn.ReLU(inplace=True), again

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        y = self.relu(normed)
        return y + 3 * normed if self.again else 4 * y


@pytest.mark.parametrize("again", [False, True])
def test_an_activation_in_place_is_seen_by_later_readers(again: bool) -> None:
    models = build(lambda: ReadsAgain(again), 3)
    bundle = bind(models, example=vectors(), executor=ExecutorKind.GROUPED)
    assert bundle.report.executor is ExecutorKind.GROUPED
    x = vectors(3)
    found = bundle(x)
    losses(lambda y, _: y.square().sum(), found, x).sum().backward()
    [gradient] = bundle.gradients()
    for slot, model in enumerate(models):
        expected = model(x[slot])
        expected.square().sum().backward()
        torch.testing.assert_close(found[slot], expected)
        wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(gradient.values[slot], wanted)


class AddsToItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.add_(1))


def relu_first() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(6, 4))


class FunctionalReluFirst(AddsToItsInput):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.leaky_relu(x.view(-1, 6), 0.1, True))


WRITERS = {
    AddsToItsInput: "'.add_()' in `return self.fc(x.add_(1))` writes into the model's input",
    relu_first: "'1' writes into the model's input",
    FunctionalReluFirst: "` writes into the model's input",
}


@pytest.mark.parametrize("make", WRITERS)
def test_a_model_may_write_into_its_shared_input(make: Callable[[], nn.Module]) -> None:
    models = build(make, 3)
    x = vectors()
    bundle = bind(models, example=x)
    assert bundle.report.executor is not ExecutorKind.GROUPED
    assert WRITERS[make] in bundle.report.reason
    assert [c.refusal for c in bundle.report.candidates if c.name == "loop"] == [None]
    found = bundle.shared(x)
    for slot, model in enumerate(models):
        torch.testing.assert_close(found[slot], model(x.clone()))
    found.sum().backward()


def test_augmented_assignment_is_what_it_does() -> None:
    class Aliases(AddsToItsInput):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.fc(x)
            kept = hidden
            hidden += 1
            return kept * hidden

    class Residual(AddsToItsInput):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.fc(x)
            hidden += 1
            return hidden

    for make, kind in ((Aliases, ExecutorKind.LOOP), (Residual, ExecutorKind.GROUPED)):
        models = build(make, 2)
        bundle = bind(models, example=vectors(), executor=ExecutorKind.GROUPED)
        assert bundle.report.executor is kind
        x = vectors(2)
        torch.testing.assert_close(bundle(x)[1], models[1](x[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_are_where_the_work_is(kind: ExecutorKind) -> None:
    bundle = bind(build(mlp, 2), example=vectors(), executor=kind)
    called: list[nn.Module] = []
    for leaf in bundle.leaves():
        leaf.register_forward_pre_hook(lambda module, _: called.append(module))
    bundle(vectors(2))
    assert len(called) == (6 if kind is ExecutorKind.LOOP else 3)


def test_gradients_gather_over_several_backward_passes() -> None:
    models = build(mlp, 2)
    for kind in KINDS:
        bundle = bind(models, example=vectors(), executor=kind)
        (x1, y1), (x2, y2) = batch(2), batch(2)
        for x, y in ((x1, y1), (x2, y2)):
            losses(F.cross_entropy, bundle(x), y).sum().backward()
        found = bundle.gradients()[0]
        for slot, model in enumerate(models):
            model.zero_grad()
            for x, y in ((x1, y1), (x2, y2)):
                F.cross_entropy(model(x[slot]), y[slot]).backward()
            expected = torch.cat([p.grad.flatten() for p in model.parameters()])
            torch.testing.assert_close(found.values[slot], expected)


def refused(bundle: Bundle, do: str) -> str:
    with pytest.raises(FusionError) as error:
        {
            "to": lambda: bundle.to(torch.float32),
            "state_dict": bundle.state_dict,
            "input": lambda: bundle(vectors()),
        }[do]()
    return str(error.value)


def test_what_a_bundle_cannot_do_is_said_in_a_sentence() -> None:
    bundle = bind(build(mlp, 2), example=vectors())
    assert "before" in refused(bundle, "to") or "then bind" in refused(bundle, "to")
    assert "unbind(slot).state_dict()" in refused(bundle, "state_dict")
    assert "call bundle.shared(x)" in refused(bundle, "input")
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(FusionError, match="bind its models again"):
            copied(bundle)
    with pytest.raises(FusionError, match="a bundle has no state_dict"):
        bundle.load_state_dict({})
    with pytest.raises(IndexError, match="slot 2 of a bundle of 2"):
        bundle.unbind(2)


def test_parameters_are_those_that_autograd_sees() -> None:
    grouped = bind(build(mlp, 3), example=vectors(), executor=ExecutorKind.GROUPED)
    loop = bind(build(mlp, 3), example=vectors(), executor=ExecutorKind.LOOP)
    number = sum(p.numel() for p in mlp().parameters())
    assert sum(p.numel() for p in grouped.parameters()) == 3 * number
    assert sum(p.numel() for p in loop.parameters()) == 3 * number
