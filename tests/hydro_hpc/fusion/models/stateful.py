"""Models that keep something beside parameters, or make their weights of something else."""

from __future__ import annotations

import copy
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    LOOP,
    Architecture,
    Batch,
    classes,
    next_tokens,
    token_loss,
    vectors,
)


class PlainState(nn.Module):
    """A tensor that is no buffer, a counter, a list, a dict: all of them matter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.offset = torch.randn(8)
        self.calls = 0
        self.scales = [1.0, 0.5, 0.25]
        self.seen: dict[str, float] = {"largest": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scales[self.calls % 3]
        self.calls += 1
        h = torch.tanh(self.fc(x) + self.offset) * scale
        self.seen["largest"] = max(self.seen["largest"], float(h.detach().abs().max()))
        return self.head(h) * (1 + self.seen["largest"])


class MovingAverage(nn.Module):
    """Buffers updated in forward: one in place, one by assignment, a whole-number count."""

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("spread", torch.ones(8))
        self.register_buffer("updates", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(self.momentum).add_(h.mean(0), alpha=1 - self.momentum)
            fresh = h.detach().std(0)
            self.spread = self.momentum * self.spread + (1 - self.momentum) * fresh
            self.updates += 1
        return self.head((h - self.mean) / (self.spread + 1e-3))


class RotaryCache(nn.Module):
    """Tables that the first forward makes, and a longer input makes anew."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed, self.qk = nn.Embedding(11, width), nn.Linear(width, 2 * width, bias=False)
        self.head = nn.Linear(width, 11)
        rates = 1.0 / (100 ** (torch.arange(0, width, 2) / width))
        self.register_buffer("rates", rates, persistent=False)
        self.register_buffer("cos", None, persistent=False)
        self.register_buffer("sin", None, persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        T = x.size(1)
        if self.cos is None or self.cos.size(0) < T:
            angles = torch.outer(torch.arange(T).to(self.rates), self.rates)
            self.cos, self.sin = angles.cos(), angles.sin()
        even, odd = x[..., 0::2], x[..., 1::2]
        cos, sin = self.cos[:T], self.sin[:T]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k = self.qk(x).chunk(2, dim=-1)
        q, k = self.rotate(q), self.rotate(k)
        weights = (q @ k.mT / 3).tril().softmax(-1)
        return self.head(x + weights @ x)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).transpose(-1, -2)


def parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 7), nn.Linear(7, CLASSES))
    parametrize.register_parametrization(model[2], "weight", Symmetric())
    nn.utils.parametrizations.orthogonal(model[0])
    return model


def lazy() -> nn.Module:
    model = nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)
    )
    with torch.no_grad():
        model(torch.zeros(2, 2, 5, 5))
    return model


def small_images() -> Batch:
    return Batch(args=(torch.randn(BATCH, 2, 5, 5),), targets=classes())


class FrozenBackbone(nn.Module):
    """The backbone runs under no_grad, in evaluation mode by an own `train`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout())
        self.head = nn.Linear(8, CLASSES)
        self.train()

    def train(self, mode: bool = True) -> FrozenBackbone:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


class Distilled(nn.Module):
    """A teacher in a list, so that it is in no state_dict, and follows the student."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        self.hidden_teacher = [copy.deepcopy(self.student).requires_grad_(False)]

    @torch.no_grad()
    def follow(self) -> None:
        teacher = self.hidden_teacher[0]
        for slow, fast in zip(teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self.follow()
        return self.student(x), self.hidden_teacher[0](x)


def distillation(output: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    student, teacher = output
    soft = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    return F.cross_entropy(student, y) + soft


class StatefulLSTM(nn.Module):
    """Keeps its state between batches, with the graph of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, CLASSES)
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.state is not None and self.state[0].size(1) == x.size(0):
            self.state = tuple(s.detach() for s in self.state)
        else:
            self.state = None
        output, self.state = self.lstm(x.unsqueeze(1), self.state)
        return self.head(output[:, -1])


class GradualUnfreezing(nn.Module):
    """The backbone starts to train at the fourth batch."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.backbone.requires_grad_(False)
        self.batches = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
            self.backbone.requires_grad_(self.batches > 3)
        return self.head(torch.tanh(self.backbone(x)))


class PenalizedWeights(nn.Module):
    """A plain list of its own weights, for a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.penalized = [self.fc1.weight, self.fc2.weight]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.fc2(F.hardswish(self.fc1(x)))
        return out, sum(w.abs().sum() for w in self.penalized)


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.generator = torch.Generator().manual_seed(int(torch.randint(1000, ())))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if self.training:
            h = h + 0.1 * torch.randn(h.shape, generator=self.generator)
        return self.head(F.relu(h))


def cumulative_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8, momentum=None),
        nn.ReLU(),
        nn.Linear(8, 7),
        nn.BatchNorm1d(7, track_running_stats=False),
        nn.RMSNorm(7),
        nn.Linear(7, CLASSES),
    )


class ClippedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, max_norm=1.0, scale_grad_by_freq=True)
        self.read_out = nn.Linear(6, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read_out(self.embed(tokens))


class InPlace(nn.Module):
    """Writes into its own results, and into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean(dim=1, keepdim=True)
        x.clamp_(-2, 2)
        h = self.fc1(x)
        h += x
        h = h.relu_()
        out = self.fc2(h)
        out[:, 0] = out[:, 0] * 2
        out.mul_(0.5).add_(1.0)
        return self.head(out)


ALL: Final = (
    Architecture(
        name="plain_state",
        make=PlainState,
        batch=vectors,
        why="tensors, counters and lists as attributes: no executor may share or freeze them",
    ),
    Architecture(
        name="moving_average",
        make=MovingAverage,
        batch=vectors,
        why="a buffer that is assigned is another tensor after the first step",
    ),
    Architecture(
        name="rotary_cache",
        make=RotaryCache,
        batch=next_tokens,
        loss=token_loss,
        why="buffers that are None until the first forward",
    ),
    Architecture(
        name="parametrized",
        make=parametrized,
        batch=vectors,
        why="weights computed by modules, one with an orthogonal map and its base as buffer",
    ),
    Architecture(
        name="lazy",
        make=lazy,
        batch=small_images,
        why="modules that changed their class at the first call",
    ),
    Architecture(
        name="frozen_backbone",
        make=FrozenBackbone,
        batch=vectors,
        why="train() does not do to all modules the same; gradients are absent, not zero",
    ),
    Architecture(
        name="hidden_teacher",
        make=Distilled,
        batch=vectors,
        loss=distillation,
        why="a model that no list of modules shows, written in every step",
    ),
    Architecture(
        name="stateful_lstm",
        make=StatefulLSTM,
        batch=vectors,
        why="a state with its graph in a plain attribute, which Python cannot copy",
    ),
    Architecture(
        name="gradual_unfreezing",
        make=GradualUnfreezing,
        batch=vectors,
        why="which parameters train changes on the way",
        faults=dict.fromkeys(LOOP, "a parameter that is thawed after binding is an error"),
    ),
    Architecture(
        name="penalized_weights",
        make=PenalizedWeights,
        batch=vectors,
        loss=lambda output, y: F.cross_entropy(output[0], y) + 0.01 * output[1],
        why="weights are found by another way than by their names",
    ),
    Architecture(
        name="own_generator",
        make=OwnGenerator,
        batch=vectors,
        why="a random stream that belongs to the model",
    ),
    Architecture(
        name="cumulative_norm",
        make=cumulative_norm,
        batch=vectors,
        why="momentum=None averages over all steps; a norm without statistics; RMSNorm",
    ),
    Architecture(
        name="clipped_embedding",
        make=ClippedEmbedding,
        batch=next_tokens,
        loss=token_loss,
        why="the forward writes into the weight, and counts tokens of one trial's batch",
    ),
    Architecture(
        name="in_place",
        make=InPlace,
        batch=vectors,
        why="+= on the input would be seen by every slot that shares it",
    ),
)
