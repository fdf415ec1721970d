"""Trains the same trials as one bundle and as separate ordinary models, and compares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.fusion import Bundle, losses, trial_stream
from hydro_hpc.optim import SlotOptimizer

TOLERANCE = 1e-10


MakeOptimizer = Callable[..., torch.optim.Optimizer]


@dataclass
class Unfused:
    """One trial as its owner would train it; `step` counts for its random stream."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    seed: int
    step: int = 0

    @classmethod
    def of(cls, model: nn.Module, optimizer: MakeOptimizer, seed: int) -> Unfused:
        own = copy.deepcopy(model)
        return cls(own, optimizer(own.parameters()), seed)

    def train(self, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        with trial_stream(self.seed, self.step, training=self.model.training):
            outputs = self.model(x)
        loss = F.cross_entropy(outputs, y)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()


def train_bundle(bundle: Bundle, optimizer: SlotOptimizer, x: Tensor, y: Tensor) -> list[float]:
    optimizer.zero_grad()
    values = losses(F.cross_entropy, bundle(x), y)
    values.sum().backward()
    optimizer.step()
    return [float(value) for value in values.detach()]


def assert_same_training(
    bundle: Bundle,
    optimizer: SlotOptimizer,
    trials: Sequence[Unfused],
    make_input: Callable[..., Tensor],
    num_steps: int,
    classes: int,
) -> None:
    """Each step's losses, then parameters and buffers, are equal in every slot."""
    for step in range(num_steps):
        x = make_input(bundle.slots)
        y = torch.randint(0, classes, (bundle.slots, x.size(1)))
        found = train_bundle(bundle, optimizer, x, y)
        for slot, trial in enumerate(trials):
            expected = trial.train(x[slot], y[slot])
            assert abs(found[slot] - expected) <= TOLERANCE * abs(expected), (step, slot)
    for slot, trial in enumerate(trials):
        assert_same_state(bundle.unbind(slot), trial.model)


def assert_same_state(found: nn.Module, expected: nn.Module) -> None:
    found_state, expected_state = found.state_dict(), expected.state_dict()
    assert found_state.keys() == expected_state.keys()
    for name, tensor in expected_state.items():
        torch.testing.assert_close(found_state[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)
