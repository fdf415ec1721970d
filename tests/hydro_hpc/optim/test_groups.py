"""Parameter groups: who is in them, what reaches them, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind
from hydro_hpc.optim import ParameterGroup
from tests.hydro_hpc.optim.torch_oracle import (
    SLOTS,
    assert_equal,
    bundle_of,
    give_gradients,
    models,
)


def bundle() -> Bundle:
    return bundle_of(models(), ExecutorKind.GROUPED)


def adam(*groups: ParameterGroup) -> optim.Adam:
    return optim.Adam(bundle(), lr=0.1, groups=groups)


def lrs(optimizer: optim.SlotOptimizer, slot: int) -> list[float]:
    return [group["lr"] for group in optimizer.settings()[slot]]


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (
            [ParameterGroup(names=["bias"])],
            "'bias' in a group is no parameter; there are frozen, scale, first.weight, first.bias,",
        ),
        (
            [ParameterGroup(names=["scale"]), ParameterGroup(names=["first.bias", "scale"])],
            "scale: named twice",
        ),
        (
            [ParameterGroup(names=["scale"], momentum=0.9)],
            "momentum is no setting of Adam: it has lr, betas, eps",
        ),
        ([ParameterGroup(names=["scale"], lr=[0.1, -0.1, 0.1])], "lr of slot 1 is -0.1"),
        ([ParameterGroup(names=["scale"], lr=[0.1, 0.1])], r"lr has shape \[2\]"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: list[ParameterGroup], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        adam(*groups)


def test_a_tied_parameter_has_one_group_under_any_of_its_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False)
            self.other = nn.Linear(3, 3, bias=False)
            self.other.weight = self.one.weight
            self.last = nn.Linear(3, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.other(self.one(x)))

    tied = bind([Tied() for _ in range(2)], example=torch.rand(4, 3))
    group = ParameterGroup(names=["other.weight"], lr=0.5)
    assert optim.SGD(tied, groups=[group]).slot_state(0)["param_groups"][1]["params"] == [1]
    with pytest.raises(ValueError, match=r"one\.weight: named twice"):
        optim.SGD(tied, groups=[group, ParameterGroup(names=["one.weight"])])


def test_settings_reach_the_groups_that_have_none_of_their_own() -> None:
    optimizer = adam(
        ParameterGroup(names=["scale"], lr=0.3), ParameterGroup(names=["first.bias"], eps=0.1)
    )
    optimizer.set(1, lr=0.2)
    assert [lrs(optimizer, slot) for slot in range(SLOTS)] == [
        [0.1, 0.3, 0.1],
        [0.2, 0.3, 0.2],
        [0.1, 0.3, 0.1],
    ]
    optimizer.set(1, group=1, lr=0.7)
    optimizer.reset_slot(1, lr=0.4)
    assert lrs(optimizer, 1) == [0.4, 0.3, 0.4]  # a group's own as it was made
    with pytest.raises(ValueError, match="group 3 of 3 parameter groups"):
        optimizer.set(1, group=3, lr=0.7)


def test_a_setting_that_would_reach_no_group_is_refused() -> None:
    names = [name for name, _ in models()[0].named_parameters()]
    optimizer = adam(ParameterGroup(names=names, lr=0.3))
    assert lrs(optimizer, 0) == [0.3]  # there is no group of the rest
    with pytest.raises(ValueError, match="every group has a lr of its own: say of which, group="):
        optimizer.set(0, lr=0.2)


def test_a_state_of_other_groups_is_refused() -> None:
    state = adam(ParameterGroup(names=["scale"])).slot_state(0)
    with pytest.raises(ValueError, match=r"groups with \[4, 1\] parameters, not with \[5\]"):
        adam().load_slot_state(0, state)


RULES: dict[str, dict[str, float]] = {
    "first.weight": {"lr_mult": 4.0, "wd_mult": 0.25},
    "last.weight": {"lr_mult": 0.5, "wd_mult": 2.0},
    "scale": {"lr_mult": 4.0, "wd_mult": 0.25},
}


def test_multipliers_by_name_are_groups() -> None:
    """Plain numbers by parameter name, as a surrogate has them, over settings of each slot."""
    lr, decay = torch.tensor([0.1, 0.01, 0.2]), torch.tensor([0.1, 0.3, 0.0])
    nets = models()
    fused = bundle_of(nets, ExecutorKind.GROUPED)
    groups = [
        ParameterGroup(names=[name], lr=lr * rule["lr_mult"], weight_decay=decay * rule["wd_mult"])
        for name, rule in RULES.items()
    ]
    ours = optim.AdamW(fused, lr=lr, weight_decay=decay, groups=groups)
    theirs = [
        torch.optim.AdamW([by_rule(n, p, lr[s], decay[s]) for n, p in net.named_parameters()])
        for s, net in enumerate(nets)
    ]
    for step in range(10):
        give_gradients(fused, nets, step)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    assert_equal(fused, nets)


def by_rule(
    name: str, parameter: nn.Parameter, lr: torch.Tensor, decay: torch.Tensor
) -> dict[str, Any]:
    rule = RULES.get(name, {"lr_mult": 1.0, "wd_mult": 1.0})
    return {
        "params": [parameter],
        "lr": float(lr * rule["lr_mult"]),
        "weight_decay": float(decay * rule["wd_mult"]),
    }
