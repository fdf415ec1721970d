"""Forwards whose way depends on something: a constant, shapes, training, chance or the data."""

from __future__ import annotations

import random
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    classes,
    vectors,
)


class RoutedByName(nn.Module):
    def __init__(self, path: str = "b") -> None:
        super().__init__()
        self.path = path
        self.branches = nn.ModuleDict({"a": nn.Linear(6, 8), "b": nn.Linear(6, 8)})
        self.acts = nn.ModuleList([nn.ReLU(), nn.Softplus()])
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.branches[self.path](x)
        return self.head(self.acts[len(self.branches) - 1](x))


class SoftExperts(nn.Module):
    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.gate = nn.Linear(6, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = F.softmax(self.gate(x), dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.sum(weights.unsqueeze(-1) * outputs, dim=1)


class TopKExperts(nn.Module):
    def __init__(self, experts: int = 4, k: int = 2) -> None:
        super().__init__()
        self.k = k
        self.gate = nn.Linear(6, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(6, CLASSES) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = torch.topk(F.softmax(self.gate(x), dim=-1), self.k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.zeros(x.size(0), CLASSES, dtype=x.dtype)
        for i, expert in enumerate(self.experts):
            mask = chosen == i
            if mask.any():
                rows, places = torch.where(mask)
                out.index_add_(0, rows, weights[rows, places, None] * expert(x[rows]))
        return out


class ByShape(nn.Module):
    """A batch of one has no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if x.size(0) > 1:
            x = self.norm(x)
        if x.dim() == 2 and x.shape[-1] % 2 == 0:
            x = F.relu(x)
        return self.head(x)


class ByTraining(nn.Module):
    """An auxiliary head that is there in training alone, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.head, self.aux = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        x = self.trunk(x)
        if self.training:
            return self.head(x), self.aux(x)
        return self.head(x)


class ByData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.fc(x))
        if y.sum() > 0:
            return self.up(y)
        return self.down(y) * 2


class Halting(nn.Module):
    """Repeats until its own output is small: the number of steps differs by trial."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(6):
            x = 0.7 * torch.tanh(self.step(x))
            if x.abs().mean().item() < 0.2:
                break
        return self.head(x)


class StochasticDepth(nn.Module):
    """One layer is skipped by a coin, another by a mask per example."""

    def __init__(self, keep: float = 0.6) -> None:
        super().__init__()
        self.keep = keep
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            x = x + self.keep * F.relu(self.first(x))
            return self.head(x + F.relu(self.second(x)))
        if torch.rand(1).item() < self.keep:
            x = x + F.relu(self.first(x))
        mask = torch.floor(self.keep + torch.rand((x.shape[0], 1), dtype=x.dtype))
        return self.head(x + F.relu(self.second(x)).div(self.keep) * mask)


class ScheduledSampling(nn.Module):
    """Feeds back its own output or the truth by Python's own dice, as in seq2seq tutorials."""

    def __init__(self, teacher_forcing: float = 0.5) -> None:
        super().__init__()
        self.teacher_forcing = teacher_forcing
        self.cell, self.out = nn.GRUCell(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h, given = x.new_zeros(x.size(0), 8), x
        for _ in range(3):
            h = self.cell(given, h)
            own = self.out(h)
            given = x if random.random() < self.teacher_forcing else own
            given = given * np.random.uniform(0.9, 1.1)
        return self.head(given)


class ShapeGames(nn.Module):
    """Moves the batch about: to the back, into one axis with another, away and in again."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.mix = nn.Linear(4, 6), nn.Linear(3, 3)
        self.shift, self.head = nn.Parameter(torch.randn(6)), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        x = self.fc(x.reshape(-1, 4)).view(b, t, 6)
        x = x.transpose(0, 1).contiguous().view(t, -1).permute(1, 0)
        x = self.mix(x).reshape(b, 6, t).mean(dim=-1)
        x = x - x.mean(0) + x.flatten().mean() * self.shift
        x = torch.cat([x, x.sum(0, keepdim=True)], dim=0)[:-1]
        x = x.unsqueeze(0).squeeze(0) * x[0] + x[:, None].squeeze(1)
        return self.head(x / (x.pow(2).sum(-1, keepdim=True) + 1) ** 0.5)


def short_sequences() -> Batch:
    return Batch(args=(torch.randn(BATCH, 3, 4),), targets=classes())


class GumbelRouter(nn.Module):
    """A hard choice that gradients pass through, noise on weights, a shuffle of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.values = nn.Linear(6, 3), nn.Parameter(torch.randn(3, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        choice = F.gumbel_softmax(self.gate(x), tau=0.7, hard=True)
        x = choice @ self.values
        if self.training:
            x = 0.8 * x + 0.2 * x[torch.randperm(x.size(0))]
            x = x + 0.1 * torch.empty_like(x).normal_()
        return self.head(F.alpha_dropout(x, 0.1, training=self.training))


class ManyDropouts(nn.Module):
    """Each kind draws another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3)
        self.drop2d, self.drop = nn.Dropout2d(0.3), nn.Dropout(0.2)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.drop2d(self.conv1(x)), 2))
        x = F.feature_alpha_dropout(F.selu(self.conv2(x)), 0.2, self.training)
        x = x.view(-1, 6)
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc(self.drop(x)), dim=1)


def larger_images() -> Batch:
    return Batch(args=(torch.randn(BATCH, 2, 8, 8),), targets=classes())


def both_heads(output: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    return F.cross_entropy(output[0], y) + 0.4 * F.cross_entropy(output[1], y)


ALL: Final = (
    Architecture(
        name="routed_by_constant",
        make=RoutedByName,
        batch=vectors,
        why="one branch never runs: its gradient is absent, not zero",
    ),
    Architecture(
        name="soft_experts",
        make=SoftExperts,
        batch=vectors,
        why="stack along a new axis 1, dim=-1 and keepdim arithmetic",
    ),
    Architecture(
        name="top_k_experts",
        make=TopKExperts,
        batch=vectors,
        why="which experts run depends on the data, and differs by slot",
    ),
    Architecture(
        name="by_shape", make=ByShape, batch=vectors, why="x.size(0) is the batch, never the slots"
    ),
    Architecture(
        name="by_training",
        make=ByTraining,
        batch=vectors,
        loss=both_heads,
        why="a tuple in training, a tensor in evaluation",
    ),
    Architecture(
        name="by_data",
        make=ByData,
        batch=vectors,
        why="slots take different branches, and change branch while they train",
    ),
    Architecture(
        name="halting", make=Halting, batch=vectors, why=".item() ends a loop early, per slot"
    ),
    Architecture(
        name="stochastic_depth",
        make=StochasticDepth,
        batch=vectors,
        why="a coin in Python: each trial throws its own",
    ),
    Architecture(
        name="scheduled_sampling",
        make=ScheduledSampling,
        batch=vectors,
        why="Python's and NumPy's dice are random streams too",
    ),
    Architecture(
        name="shape_games",
        make=ShapeGames,
        batch=short_sequences,
        why="every axis is counted from the front or from the back, and batches differ in size",
    ),
    Architecture(
        name="gumbel_router",
        make=GumbelRouter,
        batch=vectors,
        why="four kinds of random draws in one forward, in the order of the unfused model",
    ),
    Architecture(
        name="many_dropouts",
        make=ManyDropouts,
        batch=larger_images,
        loss=F.nll_loss,
        why="masks per channel and per element, and a view(-1, n) that must not swallow slots",
    ),
)
