"""Every optimizer equals torch's in every slot, each slot with its own settings, in double
precision to 1e-12 over 100 steps of given gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind

SLOTS: Final = 3
EXACT: Final = {"rtol": 1e-12, "atol": 1e-14}


class Net(nn.Module):
    """Four parameters, one of them a scalar, one frozen in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.frozen = nn.Parameter(torch.rand(2), requires_grad=False)
        self.scale = nn.Parameter(torch.rand(()))
        self.last = nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.scale)


def models() -> list[nn.Module]:
    return [Net().double() for _ in range(SLOTS)]


def bundle_of(nets: Sequence[nn.Module], kind: ExecutorKind) -> Bundle:
    bundle = bind(nets, example=torch.rand(5, 4).double(), executor=kind)
    bundle(torch.rand(SLOTS, 5, 4).double())  # its executor's leaves are in use now
    return bundle


def give_gradients(
    bundle: Bundle, nets: Sequence[nn.Module], step: int, *, absent: bool = False
) -> None:
    """The same random gradients to the bundle's leaves and to separate models."""
    generator = torch.Generator().manual_seed(step)
    leaves = dict(bundle.named_parameters())
    for number, name in enumerate(n for n, p in nets[0].named_parameters() if p.requires_grad):
        rows = []
        for slot, net in enumerate(nets):
            parameter = dict(net.named_parameters())[name]
            row = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            is_absent = absent and (step + number + slot) % 3 == 0
            parameter.grad = None if is_absent else row.clone()
            rows.append(parameter.grad)
            if f"{slot}.{name}" in leaves:
                leaves[f"{slot}.{name}"].grad = None if is_absent else row.clone()
        if name in leaves:
            leaves[name].grad = torch.stack([row for row in rows if row is not None])


def assert_equal(bundle: Bundle, nets: Sequence[nn.Module]) -> None:
    for slot, net in enumerate(nets):
        for name, value in bundle.unbind(slot).state_dict().items():
            torch.testing.assert_close(value, net.state_dict()[name], **EXACT)


SETTINGS: Final[list[tuple[str, dict[str, list[Any]]]]] = [
    ("SGD", {"lr": [0.1, 0.01, 0.2]}),
    (
        "SGD",
        {
            "lr": [0.1, 0.01, 0.2],
            "momentum": [0.9, 0.0, 0.5],
            "dampening": [0.0, 0.3, 0.2],
            "weight_decay": [0.0, 0.1, 0.01],
            "nesterov": [True, False, False],
        },
    ),
    ("SGD", {"lr": [0.1] * 3, "momentum": [0.9] * 3, "nesterov": [True] * 3}),
    ("Adam", {"lr": [0.1, 0.01, 0.2]}),
    (
        "Adam",
        {
            "lr": [0.1, 0.01, 0.2],
            "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)],
            "eps": [1e-8, 1e-3, 1e-5],
            "weight_decay": [0.0, 0.1, 0.01],
        },
    ),
    ("AdamW", {"lr": [0.1, 0.01, 0.2]}),
    (
        "AdamW",
        {
            "lr": [0.1, 0.01, 0.2],
            "betas": [(0.9, 0.999), (0.5, 0.9), (0.8, 0.99)],
            "eps": [1e-8, 1e-3, 1e-5],
            "weight_decay": [0.0, 0.1, 0.01],
        },
    ),
]


def torch_optimizers(
    name: str, own: dict[str, list[Any]], nets: Sequence[nn.Module]
) -> list[torch.optim.Optimizer]:
    kind = getattr(torch.optim, name)
    return [
        kind(net.parameters(), **{setting: values[slot] for setting, values in own.items()})
        for slot, net in enumerate(nets)
    ]


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_a_hundred_steps(name: str, own: dict[str, list[Any]], kind: ExecutorKind) -> None:
    nets = models()
    bundle = bundle_of(nets, kind)
    ours, theirs = getattr(optim, name)(bundle, **own), torch_optimizers(name, own, nets)
    for step in range(100):
        give_gradients(bundle, nets, step)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    assert_equal(bundle, nets)


@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_absent_gradients_leave_parameters_and_state_alone(
    name: str, own: dict[str, list[Any]]
) -> None:
    nets = models()
    bundle = bundle_of(nets, ExecutorKind.LOOP)
    ours, theirs = getattr(optim, name)(bundle, **own), torch_optimizers(name, own, nets)
    for step in range(100):
        give_gradients(bundle, nets, step, absent=True)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    assert_equal(bundle, nets)


@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_state_goes_to_torch_and_back(name: str, own: dict[str, list[Any]]) -> None:
    """A trial leaves its bundle, trains alone, and comes back into another slot."""
    nets = models()
    bundle = bundle_of(nets, ExecutorKind.GROUPED)
    ours, theirs = getattr(optim, name)(bundle, **own), torch_optimizers(name, own, nets)
    step = 0
    for _ in range(5):
        for _ in range(3):
            give_gradients(bundle, nets, step)
            step += 1
            ours.step()
            for optimizer in theirs:
                optimizer.step()
        alone = [bundle.unbind(slot) for slot in range(SLOTS)]
        theirs = torch_optimizers(name, own, alone)
        for slot, optimizer in enumerate(theirs):
            optimizer.load_state_dict(ours.slot_state(slot))
        nets = alone
        for slot, net in enumerate(nets):
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            theirs[slot].step()
            bundle.replace(slot, net, seed=slot)
            ours.load_slot_state(slot, theirs[slot].state_dict())
    assert_equal(bundle, nets)


@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_the_state_has_torchs_own_form(name: str, own: dict[str, list[Any]]) -> None:
    nets = models()
    bundle = bundle_of(nets, ExecutorKind.GROUPED)
    ours, theirs = getattr(optim, name)(bundle, **own), torch_optimizers(name, own, nets)
    give_gradients(bundle, nets, 0)
    ours.step()
    for slot, optimizer in enumerate(theirs):
        optimizer.step()
        found, expected = ours.slot_state(slot), optimizer.state_dict()
        assert found["param_groups"] == expected["param_groups"]
        moments = {k: v for k, v in expected["state"].items() if set(v.values()) != {None}}
        assert found["state"].keys() == moments.keys()
        for number, own_state in moments.items():
            assert found["state"][number].keys() == own_state.keys()
            for key, value in own_state.items():
                torch.testing.assert_close(found["state"][number][key], value, **EXACT)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_settings(name: str, data: st.DataObject) -> None:
    def draw(low: float, high: float) -> list[float]:
        return [data.draw(st.floats(low, high)) for _ in range(SLOTS)]

    own: dict[str, list[Any]] = {"lr": draw(0, 1), "weight_decay": draw(0, 0.5)}
    if name == "SGD":
        own |= {"momentum": draw(0, 1), "dampening": draw(0, 1)}
    else:
        own |= {"betas": list(zip(draw(0, 0.99), draw(0, 0.99), strict=True)), "eps": draw(1e-8, 1)}
    nets = models()
    bundle = bundle_of(nets, ExecutorKind.GROUPED)
    ours, theirs = getattr(optim, name)(bundle, **own), torch_optimizers(name, own, nets)
    for step in range(5):
        give_gradients(bundle, nets, step)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    for slot, net in enumerate(nets):
        for key, value in bundle.unbind(slot).state_dict().items():
            torch.testing.assert_close(value, net.state_dict()[key], rtol=1e-10, atol=1e-12)
