"""Bundles with all that has slots, and trials whose batches are their own wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils import _pytree as pytree

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind, losses
from hydro_hpc.optim import ParameterGroup, SlotAverage, SlotGradScaler, SlotSchedule

MakeOptimizer = Callable[[Bundle], optim.SlotOptimizer]

MAKERS: Final = [
    lambda twin: StepLR(twin, step_size=2, gamma=0.5),
    lambda twin: ExponentialLR(twin, gamma=0.9),
    lambda twin: StepLR(twin, step_size=3, gamma=0.1),
]
EXACT: Final = {"rtol": 1e-8, "atol": 1e-9}
LR: Final = [0.1, 0.05, 0.02]
GROUPS: Final = [ParameterGroup(names=["0.bias", "4.weight"], lr=[0.03, 0.2, 0.01])]


def sgd(bundle: Bundle) -> optim.SlotOptimizer:
    return optim.SGD(
        bundle, lr=LR, momentum=[0.9, 0.5, 0.0], nesterov=[True, False, False], groups=GROUPS
    )


def adamw(bundle: Bundle) -> optim.SlotOptimizer:
    return optim.AdamW(
        bundle, lr=LR, weight_decay=[0.1, 0.0, 0.2], amsgrad=[False, True, False], groups=GROUPS
    )


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 13), nn.BatchNorm1d(13), nn.ReLU(), nn.Dropout(0.3), nn.Linear(13, 3)
    )


def batch_of(trial: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * trial + step)
    return (
        torch.randn(9, 7, generator=generator),
        torch.randint(0, 3, (9,), generator=generator),
    )


@dataclass
class Side:
    """A bundle whose slots have the trials of these numbers, each at a step of its own."""

    bundle: Bundle
    optimizer: optim.SlotOptimizer
    schedule: SlotSchedule
    scaler: SlotGradScaler
    average: SlotAverage
    trials: list[int | None]
    steps: dict[int, int]

    @classmethod
    def of(
        cls,
        trials: Sequence[int],
        kind: ExecutorKind,
        make: MakeOptimizer,
        *,
        turn: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Side:
        """`turn` gives the slots other schedules, decays and scales."""
        nets = []
        for trial in trials:
            torch.manual_seed(trial)
            nets.append(net().to(dtype))
        x, y = batch_of(0, 0)
        bundle = bind(
            nets, (x.to(dtype), y), F.cross_entropy, [50 + t for t in trials], executor=kind
        )
        order = [(slot + turn) % len(MAKERS) for slot in range(len(trials))]
        optimizer = make(bundle)
        return cls(
            bundle=bundle,
            optimizer=optimizer,
            schedule=SlotSchedule(optimizer, [MAKERS[n] for n in order]),
            scaler=SlotGradScaler(
                optimizer, init_scale=[2.0 ** (4 + n) for n in order], growth_interval=3
            ),
            average=SlotAverage(bundle, decay=[0.5 + 0.1 * n for n in order]),
            trials=list(trials),
            steps=dict.fromkeys(trials, 0),
        )

    @property
    def parts(self) -> tuple[optim.SlotOptimizer, SlotSchedule, SlotGradScaler, SlotAverage]:
        return self.optimizer, self.schedule, self.scaler, self.average

    def train(self, num_steps: int) -> dict[int, list[Tensor]]:
        """Returns each trial's outputs in these steps: its dropout masks show in them."""
        outputs: dict[int, list[Tensor]] = {}
        for _ in range(num_steps):
            rows = [
                batch_of(0, 0) if t is None else batch_of(t, self.steps[t]) for t in self.trials
            ]
            dtype = self.bundle.state.blocks[0].values_FP.dtype
            found = self.bundle(torch.stack([x for x, _ in rows]).to(dtype))
            values_F = losses(F.cross_entropy, found, torch.stack([y for _, y in rows]))
            self.scaler.scale(values_F).sum().backward()
            self.scaler.step()
            self.scaler.update()
            self.optimizer.zero_grad()
            self.schedule.step()
            self.average.update()
            for slot, trial in enumerate(self.trials):
                if trial is not None:
                    self.steps[trial] += 1
                    outputs.setdefault(trial, []).append(found[slot].detach())
        return outputs

    def everything_of(self, trial: int) -> dict[str, Any]:
        """All that the rest of the trial's training is a function of."""
        slot = self.trials.index(trial)
        streams = self.bundle.streams
        states = {type(part).__name__: part.slot_state(slot) for part in self.parts}
        return {
            "model": self.bundle.unbind(slot).state_dict(),
            "stream": (streams.seeds[slot], streams.steps[slot]),
            "settings": self.optimizer.settings()[slot],
            **states,
        }


def assert_close_everything(side: Side, undisturbed: Side, trial: int) -> None:
    found, expected = side.everything_of(trial), undisturbed.everything_of(trial)
    assert found["stream"] == expected["stream"]
    assert found["SlotSchedule"] == expected["SlotSchedule"]
    assert found["settings"] == expected["settings"]
    for name in ("model", "SGD", "AdamW", "SlotAverage", "SlotGradScaler"):
        if name in expected:
            torch.testing.assert_close(found[name], expected[name], **EXACT)


def assert_same_bits(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
    ours, our_form = pytree.tree_flatten(found)
    right, right_form = pytree.tree_flatten(expected)
    assert our_form == right_form
    for one, other in zip(ours, right, strict=True):
        if isinstance(other, Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert one == other
