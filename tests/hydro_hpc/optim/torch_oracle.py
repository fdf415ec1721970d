"""A bundle under one of our optimizers beside separate models under torch's, with the same
gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
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
            # at every fourth step all are there, after unequal numbers of steps
            is_absent = absent and step % 4 > 0 and (step + number + slot) % 3 == 0
            parameter.grad = None if is_absent else row.clone()
            rows.append(parameter.grad)
            if f"{slot}.{name}" in leaves:
                leaves[f"{slot}.{name}"].grad = None if is_absent else row.clone()
        if name in leaves:
            leaves[name].grad = torch.stack([row for row in rows if row is not None])


def assert_equal(bundle: Bundle, nets: Sequence[nn.Module], **limits: Any) -> None:
    for slot, net in enumerate(nets):
        for name, value in bundle.unbind(slot).state_dict().items():
            torch.testing.assert_close(value, net.state_dict()[name], **(limits or EXACT))


def gradients(bundle: Bundle, name: str, slot: int) -> Tensor | None:
    """What backward has left on a leaf."""
    leaves = dict(bundle.named_parameters())
    alone = leaves.get(f"{slot}.{name}")
    if alone is not None:
        return alone.grad
    together = leaves[name].grad
    return None if together is None else together[slot]


def assert_equal_gradients(bundle: Bundle, nets: Sequence[nn.Module], **limits: Any) -> None:
    for slot, net in enumerate(nets):
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                found = gradients(bundle, name, slot)
                assert (found is None) is (parameter.grad is None)
                torch.testing.assert_close(
                    found, parameter.grad, equal_nan=True, **(limits or EXACT)
                )


GROUPS: Final = "groups"  # in `Own`: (names, settings of their own) of each group
Own = dict[str, list[Any]]


def slot_optimizer(name: str, own: Own, bundle: Bundle) -> optim.SlotOptimizer:
    settings = {key: values for key, values in own.items() if key != GROUPS}
    groups = [optim.ParameterGroup(names=names, **rest) for names, rest in own.get(GROUPS, [])]
    made: optim.SlotOptimizer = getattr(optim, name)(bundle, groups=groups, **settings)
    return made


def torch_optimizers(name: str, own: Own, nets: Sequence[nn.Module]) -> list[torch.optim.Optimizer]:
    return [torch_optimizer(name, own, net, slot) for slot, net in enumerate(nets)]


def torch_optimizer(name: str, own: Own, net: nn.Module, slot: int) -> torch.optim.Optimizer:
    def of_slot(settings: Own) -> dict[str, Any]:
        return {key: values[slot] for key, values in settings.items() if key != GROUPS}

    kind, rest = getattr(torch.optim, name), dict(net.named_parameters())
    groups = [
        {"params": [rest.pop(parameter) for parameter in names], **of_slot(settings)}
        for names, settings in own.get(GROUPS, [])
    ]
    if rest:
        groups.insert(0, {"params": list(rest.values())})
    made: torch.optim.Optimizer = kind(groups, **of_slot(own))
    return made


def step_both(
    name: str, own: Own, kind: ExecutorKind, *, steps: int, absent: bool = False
) -> tuple[Bundle, list[nn.Module]]:
    """The bundle and its separate models after as many steps with the same gradients."""
    nets = models()
    bundle = bundle_of(nets, kind)
    ours, theirs = slot_optimizer(name, own, bundle), torch_optimizers(name, own, nets)
    for step in range(steps):
        give_gradients(bundle, nets, step, absent=absent)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    return bundle, nets


def backward_both(
    bundle: Bundle,
    nets: Sequence[nn.Module],
    step: int,
    *,
    ours: Callable[[Tensor], Tensor] = lambda losses_F: losses_F,
    theirs: Callable[[int, Tensor], Tensor] = lambda _slot, loss: loss,
) -> None:
    """Backward of the same loss on the same data, other data in every slot."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(SLOTS, 5, 4, generator=generator, dtype=torch.float64)
    ours(bundle(x).pow(2).mean(dim=(1, 2))).sum().backward()
    for slot, net in enumerate(nets):
        theirs(slot, net(x[slot]).pow(2).mean()).backward()
