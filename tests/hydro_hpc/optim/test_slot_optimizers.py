"""Settings per slot: what may be given, changed, refused, and that nothing is collapsed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind

SLOTS = 3
KINDS: list[type[optim.SlotOptimizer]] = [
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.RMSprop,
    optim.Adagrad,
]


def make_bundle() -> Bundle:
    models = [nn.Linear(4, 2).double() for _ in range(SLOTS)]
    return bind(models, example=torch.rand(5, 4).double())


def backward(bundle: Bundle, scale: Tensor | float = 1.0) -> None:
    bundle.zero_grad()
    (bundle.shared(torch.ones(5, 4).double()).sum(dim=(1, 2)) * scale).sum().backward()


def weights(bundle: Bundle, slot: int) -> Tensor:
    return bundle.unbind(slot).weight.detach()


def everything(bundle: Bundle, optimizer: optim.SlotOptimizer, slot: int) -> tuple[Any, ...]:
    """A slot's weights and optimizer state, to the last bit."""
    kept = optimizer.slot_state(slot)["state"].values()
    state = [value.tolist() for own in kept for value in own.values()]
    return weights(bundle, slot).tolist(), state


@pytest.mark.parametrize("kind", KINDS)
def test_equal_values_stay_one_per_slot(kind: type[optim.SlotOptimizer]) -> None:
    optimizer = kind(make_bundle(), lr=0.1)
    assert all(values.shape == (SLOTS,) for values in optimizer.hyper.values())
    assert optimizer.hyper["lr"].dtype == torch.float64


def test_a_schedule_changes_one_slot() -> None:
    bundle = make_bundle()
    optimizer = optim.SGD(bundle, lr=0.1)
    before = [weights(bundle, slot) for slot in range(SLOTS)]
    for lr in (0.1, 0.3):
        optimizer.set(1, lr=lr)
        backward(bundle)
        optimizer.step()
    moved = [float((before[s] - weights(bundle, s)).mean()) for s in range(SLOTS)]
    assert moved == pytest.approx([1.0, 2.0, 1.0])


def test_reset_gives_a_slot_to_the_next_trial() -> None:
    bundle = make_bundle()
    optimizer = optim.Adam(bundle, lr=0.1, betas=(0.8, 0.9))
    for _ in range(3):
        backward(bundle)
        optimizer.step()
    others = [optimizer.slot_state(slot) for slot in (0, 2)]
    optimizer.reset_slot(1, lr=0.5, betas=(0.5, 0.7))
    state = optimizer.slot_state(1)
    assert state["state"] == {}
    assert (state["param_groups"][0]["lr"], state["param_groups"][0]["betas"]) == (0.5, (0.5, 0.7))
    for slot, kept in zip((0, 2), others, strict=True):
        found = optimizer.slot_state(slot)
        assert found["param_groups"] == kept["param_groups"]
        for number, own in kept["state"].items():
            assert all(torch.equal(t, found["state"][number][k]) for k, t in own.items())


CHANGES = {
    2: {"momentum": 0.9, "dampening": 0.5},
    5: {"momentum": 0.0},
    8: {"momentum": 0.5, "dampening": 0.1},
}


def test_momentum_switched_on_and_off_is_torchs() -> None:
    bundle = make_bundle()
    alone = bundle.unbind(1)
    optimizer = optim.SGD(bundle, lr=0.1, momentum=[0.9, 0.0, 0.9])
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(12):
        if step in CHANGES:
            optimizer.set(1, **CHANGES[step])
            theirs.param_groups[0].update(CHANGES[step])
        backward(bundle)
        optimizer.step()
        theirs.zero_grad()
        alone(torch.ones(5, 4).double()).sum().backward()
        theirs.step()
    torch.testing.assert_close(weights(bundle, 1), alone.weight.detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_slot_leaves_the_others_bit_identical(
    kind: type[optim.SlotOptimizer], poison: float
) -> None:
    torch.manual_seed(0)
    models = [nn.Linear(4, 2).double() for _ in range(SLOTS)]
    results = []
    for scale in (1.0, poison):
        bundle = bind(models, example=torch.rand(5, 4).double())
        optimizer = kind(bundle, lr=0.1, weight_decay=0.1)
        for _ in range(4):
            backward(bundle, torch.tensor([1.0, scale, 1.0], dtype=torch.float64))
            optimizer.step()
        results.append([weights(bundle, slot) for slot in range(SLOTS)])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][2], results[1][2])
    assert not results[1][1].isfinite().any()


@pytest.mark.parametrize(
    "kind",
    [
        *KINDS,
        partial(optim.SGD, momentum=0.9),
        partial(optim.AdamW, amsgrad=[True, False, True]),
        partial(optim.RMSprop, momentum=[0.0, 0.5, 0.9], centered=[True, False, False]),
    ],
)
def test_step_leaves_idle_slots_as_they_are_and_the_others_as_ever(kind: Any) -> None:
    torch.manual_seed(0)
    models = [nn.Linear(4, 2).double() for _ in range(SLOTS)]
    found = []
    for idle in ((), (0, 2)):
        bundle = bind(models, example=torch.rand(5, 4).double())
        optimizer = kind(bundle, lr=0.1, weight_decay=0.1)
        for step in range(3):
            if step == 1:
                before = [everything(bundle, optimizer, slot) for slot in idle]
                for slot in idle:
                    bundle.idle(slot)
            backward(bundle)
            optimizer.step()
        assert [everything(bundle, optimizer, slot) for slot in idle] == before
        found.append(everything(bundle, optimizer, 1))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(optim.SGD, lr=[0.1, 0.2]), r"lr has shape \[2\], not one number or \[3\]"),
        (partial(optim.SGD, lr=[0.1, -0.2, 0.1]), "lr of slot 1 is -0.2"),
        (partial(optim.SGD, momentum=-1.0), "momentum of slot 0 is -1.0"),
        (partial(optim.SGD, nesterov=[False, True, False]), "nesterov in slot 1 needs a momentum"),
        (partial(optim.SGD, momentum=0.9, dampening=0.1, nesterov=True), "and no dampening"),
        (partial(optim.Adam, betas=(0.9, 1.0)), "beta2 of slot 0 is 1.0"),
        (partial(optim.Adam, betas=[(0.9, 0.99)] * 2), r"betas has shape \[2, 2\]"),
        (partial(optim.AdamW, eps=[1e-8, -1.0, 1e-8]), "eps of slot 1 is -1.0"),
        (partial(optim.Adam, lr=float("nan")), "lr of slot 0 is nan"),
        (partial(optim.Adam, amsgrad=[True, False]), r"amsgrad has shape \[2\], not one"),
        (partial(optim.RMSprop, alpha=[0.9, 0.9, -0.1]), "alpha of slot 2 is -0.1"),
        (partial(optim.Adagrad, initial_accumulator_value=-1.0), "value of slot 0 is -1.0"),
    ],
)
def test_wrong_settings_are_refused_by_slot(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(make_bundle())


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="momentum is no setting of Adam"):
        optim.Adam(make_bundle()).set(0, momentum=0.9)


def test_a_state_of_another_model_is_refused() -> None:
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state = torch.optim.Adam(other.parameters()).state_dict()
    with pytest.raises(ValueError, match=r"groups with \[4\] parameters, not with \[2\]"):
        optim.Adam(make_bundle()).load_slot_state(0, state)


def test_a_wrong_setting_changes_nothing() -> None:
    optimizer = optim.Adam(make_bundle(), lr=0.1)
    with pytest.raises(ValueError, match=r"lr of slot 2 is -1\.0"):
        optimizer.set(2, eps=1.0, lr=-1.0)
    with pytest.raises(ValueError, match="momentum is no setting"):
        optimizer.set(2, lr=0.5, momentum=0.5)
    assert optimizer.hyper["lr"].tolist() == [0.1] * SLOTS
    assert optimizer.hyper["eps"].tolist() == [1e-8] * SLOTS


@pytest.mark.parametrize("kind", KINDS)
def test_a_neighbours_absent_gradient_changes_no_bit(kind: type[optim.SlotOptimizer]) -> None:
    torch.manual_seed(0)
    models = [nn.Linear(37, 3).double() for _ in range(SLOTS)]
    found = []
    for absent in (False, True):
        bundle = bind(models, executor=ExecutorKind.LOOP)
        optimizer = kind(bundle, lr=0.1, weight_decay=0.1)
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            for name, leaf in bundle.named_parameters():
                leaf.grad = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
                if absent and name == "0.bias" and step != 1:
                    leaf.grad = None
            optimizer.step()
        found.append([everything(bundle, optimizer, slot) for slot in (1, 2)])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("kind", "pauses"),
    [
        (optim.SGD, 2),
        (partial(optim.SGD, momentum=0.9, nesterov=True), 4),
        (optim.Adam, 2 + SLOTS),
        (partial(optim.RMSprop, momentum=0.9, centered=True), 8),
        (optim.Adagrad, 5),
    ],
)
def test_a_step_can_pause_after_each_slot_or_after_two_passes_over_all(
    kind: Any, pauses: int
) -> None:
    bundle = make_bundle()
    optimizer = kind(bundle, lr=0.1)
    backward(bundle)
    found: list[None] = []
    optimizer.between = lambda: found.append(None)
    optimizer.step()
    assert len(found) == pauses


def test_a_step_moves_the_trials_streams_on() -> None:
    bundle = make_bundle()
    optimizer = optim.SGD(bundle, lr=0.1)
    bundle.idle(1)
    backward(bundle)
    optimizer.step()
    assert bundle.streams.steps == [1, 0, 1]
