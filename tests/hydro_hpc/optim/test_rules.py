"""Surrogates in a bundle, under the rules of each parameter, beside torch's own optimizer over
`param_groups`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from hydro_hpc import optim as slots
from hydro_hpc.errors import ShrinkError
from hydro_hpc.fusion import Bundle, bind
from hydro_hpc.optim import ParameterGroup, SlotOptimizer, SlotSchedule
from hydro_hpc.surrogate import Surrogate, shrink

SLOTS, NARROW, STEPS = 3, 16, 10
LR = [0.03, 0.1, 0.003]
EQUAL = [0.03, 0.03, 0.03]
DECAY = [0.1, 0.0, 0.01]


class Net(nn.Module):
    """Unequal ratios of its axes, and a parameter that does not train."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.hidden = nn.Linear(width, 2 * width + 8)
        self.norm = nn.LayerNorm(2 * width + 8)
        self.head = nn.Linear(2 * width + 8, 3)
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.hidden(self.first(x).relu())).relu())
        return y


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def surrogates(count: int = SLOTS) -> list[Surrogate]:
    made = [shrink(Net, width=NARROW) for _ in range(count)]
    return [Surrogate(module=each.module.double(), rules=each.rules) for each in made]


def bundle_of(made: Sequence[Surrogate]) -> Bundle:
    return bind([each.module for each in made], example=torch.rand(5, 6).double())


def batch(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(SLOTS, 5, 6, generator=generator, dtype=torch.float64)


def train(bundle: Bundle, optimizer: SlotOptimizer, steps: range) -> None:
    for step in steps:
        bundle(batch(step)).pow(2).mean(dim=(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def train_alone(slot: int, model: nn.Module, optimizer: optim.Optimizer, steps: range) -> None:
    for step in steps:
        model(batch(step)[slot]).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_slot(bundle: Bundle, slot: int, model: nn.Module) -> None:
    for name, value in bundle.unbind(slot).state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-12, atol=1e-12)


def torchs(name: str, made: Surrogate, lr: float, decay: float, **own: Any) -> optim.Optimizer:
    kind: Callable[..., optim.Optimizer] = getattr(optim, name)
    return kind(made.param_groups(name, lr=lr, weight_decay=decay), **own)


def moved(name: str, made: Sequence[Surrogate]) -> tuple[Bundle, SlotOptimizer, optim.Optimizer]:
    """A bundle after three steps, and torch's optimizer of slot 1 after the same."""
    alone = copy.deepcopy(made[1])
    bundle = bundle_of(made)
    optimizer = getattr(slots, name)(bundle, lr=LR, weight_decay=DECAY, rules=made[0].rules)
    single = torchs(name, alone, LR[1], DECAY[1])
    train(bundle, optimizer, range(3))
    train_alone(1, alone.module, single, range(3))
    return bundle, optimizer, single


@pytest.mark.parametrize("lr", [LR, EQUAL], ids=["own", "equal"])
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("SGD", {"momentum": 0.9}),
        ("Adam", {}),
        ("AdamW", {"amsgrad": True}),
        ("RMSprop", {"momentum": 0.5, "eps": 1e-3}),
        ("Adagrad", {"lr_decay": 0.1, "eps": 1e-3}),
    ],
)
def test_every_slot_equals_its_surrogate_alone(
    name: str, own: dict[str, Any], lr: list[float]
) -> None:
    made = surrogates()
    alone = copy.deepcopy(made)
    bundle = bundle_of(made)
    kind = getattr(slots, name)
    given = lr[0] if lr == EQUAL else lr
    train(
        bundle,
        kind(bundle, lr=given, weight_decay=DECAY, rules=made[0].rules, **own),
        range(STEPS),
    )
    for slot, each in enumerate(alone):
        single = torchs(name, each, lr[slot], DECAY[slot], **own)
        train_alone(slot, each.module, single, range(STEPS))
        assert_slot(bundle, slot, each.module)


def test_equal_rates_of_all_slots_keep_their_factors() -> None:
    """What the published code lost."""
    made = surrogates()
    ruled = slots.AdamW(bundle_of(made), lr=0.01, rules=made[0].rules)
    for slot in range(SLOTS):
        rates = [group["lr"] for group in ruled.slot_state(slot)["param_groups"]]
        assert rates == [0.01, 0.01 * (48 / NARROW)]


def test_new_settings_of_a_slot_are_the_targets() -> None:
    made = surrogates()
    optimizer = slots.AdamW(bundle_of(made), lr=LR, weight_decay=DECAY, rules=made[0].rules)
    optimizer.set(1, lr=0.5)
    optimizer.reset_slot(2, lr=0.25, weight_decay=0.5)
    for slot, lr, decay in ((0, LR[0], DECAY[0]), (1, 0.5, DECAY[1]), (2, 0.25, 0.5)):
        wanted = torchs("AdamW", made[0], lr, decay).param_groups
        for found, group in zip(optimizer.slot_state(slot)["param_groups"], wanted, strict=True):
            assert (found["lr"], found["weight_decay"]) == (group["lr"], group["weight_decay"])
    assert optimizer.hyper["lr"].tolist() == [LR[0], 0.5, 0.25]
    with pytest.raises(ValueError, match=r"lr of slot 0 is -0\.1:"):
        optimizer.set(0, lr=-0.1)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_states_go_to_torch_and_come_back(name: str) -> None:
    made = surrogates()
    alone = copy.deepcopy(made)
    bundle, optimizer, single = moved(name, made)
    model = copy.deepcopy(alone[1])
    model.module.load_state_dict(bundle.unbind(1).state_dict())
    taken = torchs(name, model, lr=99.0, decay=99.0)
    taken.load_state_dict(optimizer.slot_state(1))
    train_alone(1, model.module, taken, range(3, 6))
    bundle.replace(2, copy.deepcopy(model.module), seed=0)
    optimizer.load_slot_state(2, taken.state_dict())
    for group, other in zip(
        optimizer.slot_state(2)["param_groups"], single.param_groups, strict=True
    ):
        assert group["lr"] == pytest.approx(other["lr"], rel=1e-14)
    assert optimizer.hyper["lr"][2] == pytest.approx(LR[1], rel=1e-14)
    train(bundle, optimizer, range(6, 8))
    for step in range(6, 8):
        model.module(batch(step)[2]).pow(2).mean().backward()
        taken.step()
        taken.zero_grad()
    assert_slot(bundle, 2, model.module)


def test_a_state_that_comes_back_is_the_same_bit_by_bit() -> None:
    made = surrogates()
    _, optimizer, _ = moved("AdamW", made)
    lr = 0.1 / 3
    optimizer.set(1, lr=lr)
    optimizer.load_slot_state(1, optimizer.slot_state(1))
    assert optimizer.hyper["lr"][1] == lr


def test_a_state_of_torchs_own_is_divided_by_the_factors() -> None:
    made = surrogates()
    _, optimizer, single = moved("AdamW", made)
    optimizer.load_slot_state(0, single.state_dict())
    assert optimizer.hyper["lr"][0] == pytest.approx(LR[1], rel=1e-14)
    assert optimizer.hyper["weight_decay"][0] == pytest.approx(DECAY[1], rel=1e-14)


def by_steps(optimizer: optim.Optimizer) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: 1.0 / (1 + step))


def one_cycle(optimizer: optim.Optimizer) -> LRScheduler:
    return OneCycleLR(optimizer, max_lr=0.2, total_steps=12)


@pytest.mark.parametrize("make", [by_steps, one_cycle])
def test_a_schedule_acts_on_the_targets_rate(
    make: Callable[[optim.Optimizer], LRScheduler],
) -> None:
    """Also one that is told rates: the factors come after it."""
    made = surrogates()
    plain = optim.AdamW([nn.Parameter(torch.zeros(1))], lr=LR[0])
    scheduler = make(plain)
    optimizer = slots.AdamW(bundle_of(made), lr=LR, rules=made[0].rules)
    schedule = SlotSchedule(optimizer, make)
    for _ in range(5):
        plain.step()
        scheduler.step()
        schedule.step()
        lr = plain.param_groups[0]["lr"]
        wanted = made[0].param_groups("adamw", lr=lr)
        found = optimizer.slot_state(0)["param_groups"]
        assert [g["lr"] for g in found] == [g["lr"] for g in wanted]
        assert found[1]["initial_lr"] == pytest.approx(
            plain.param_groups[0]["initial_lr"] * wanted[1]["lr"] / lr
        )


def test_a_trial_that_was_parked_goes_on_as_if_it_had_not() -> None:
    made = surrogates()
    left, stayed = (bundle_of(copy.deepcopy(made)) for _ in range(2))
    results = []
    for bundle in (left, stayed):
        optimizer = slots.AdamW(bundle, lr=LR, weight_decay=DECAY, rules=made[0].rules)
        schedule = SlotSchedule(optimizer, by_steps)
        train(bundle, optimizer, range(2))
        schedule.step()
        if bundle is left:
            parked = bundle.park(1, optimizer, schedule)
            bundle.unpark(1, parked, optimizer, schedule)
        train(bundle, optimizer, range(2, 4))
        schedule.step()
        results.append((bundle.unbind(1).state_dict(), optimizer.slot_state(1)["param_groups"]))
    for name, value in results[0][0].items():
        assert torch.equal(value, results[1][0][name])
    assert results[0][1] == results[1][1]


def test_resized_bundles_keep_the_factors() -> None:
    made = surrogates()
    bundle = bundle_of(made)
    optimizer = slots.SGD(bundle, lr=LR, rules=made[0].rules)

    def rates(slot: int) -> list[float]:
        return [group["lr"] for group in optimizer.slot_state(slot)["param_groups"]]

    before = rates(2)
    bundle.idle(0)
    assert bundle.shrink(2, optimizer)[2] == 0
    assert rates(0) == before
    bundle.grow(4, optimizer)
    wanted = [[g["lr"] for g in made[0].param_groups("sgd", lr=lr)] for lr in LR]
    assert rates(0) == before == wanted[2]
    assert rates(3) in wanted


def test_groups_of_ones_own_are_multiplied_too() -> None:
    made = surrogates()
    alone = copy.deepcopy(made)
    bundle = bundle_of(made)
    own = ParameterGroup(names=["first.bias", "hidden.bias", "head.bias"], weight_decay=0.0)
    optimizer = slots.AdamW(bundle, lr=LR, weight_decay=0.1, groups=[own], rules=made[0].rules)
    train(bundle, optimizer, range(STEPS))
    for slot, each in enumerate(alone):
        groups = each.param_groups("adamw", lr=LR[slot], weight_decay=0.1)
        named = {id(p): name for name, p in each.module.named_parameters()}
        single = optim.AdamW(
            [
                {**g, "params": [p], **({"weight_decay": 0.0} if named[id(p)] in own.names else {})}
                for g in groups
                for p in g["params"]
            ]
        )
        train_alone(slot, each.module, single, range(STEPS))
        assert_slot(bundle, slot, each.module)


def test_rules_of_another_model_are_refused() -> None:
    made = surrogates()
    rules = dict(made[0].rules)
    bundle = bundle_of(made)
    with pytest.raises(ShrinkError, match=r"'extra\.weight' has a rule"):
        slots.SGD(bundle, rules={**rules, "extra.weight": rules["head.weight"]})
    del rules["head.bias"]
    with pytest.raises(ShrinkError, match=r"'head\.bias' is no parameter that the surrogate had"):
        slots.SGD(bundle, rules=rules)


@pytest.mark.parametrize(
    "model", [lambda: shrink(Net, width=2 * NARROW).module, lambda: Net(NARROW)], ids=["2x", "bare"]
)
def test_rules_of_another_width_are_refused(model: Callable[[], nn.Module]) -> None:
    rules = shrink(Net, width=NARROW).rules
    bundle = bind([model().double() for _ in range(SLOTS)], example=torch.rand(5, 6).double())
    with pytest.raises(ShrinkError, match=r"input of 'head' is multiplied by .* rules it is 2\.6"):
        slots.SGD(bundle, rules=rules)


def test_rules_are_a_dict_by_name() -> None:
    with pytest.raises(ShrinkError, match="rules= is of type int"):
        slots.SGD(bundle_of(surrogates()), rules=5)  # type: ignore[arg-type]


def test_an_optimizer_without_a_rule_is_refused() -> None:
    class Lion(slots.SGD):
        TORCH = optim.Adadelta

    made = surrogates()
    with pytest.raises(ShrinkError, match="'Adadelta'"):
        Lion(bundle_of(made), rules=made[0].rules)
