"""Models that a binder may find exact on its example, and then trains wrongly or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.fusion import ExecutorKind
from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    LOOP,
    Architecture,
    Batch,
    classes,
    token_loss,
    tokens,
    vectors,
)

GROUPED: Final = (ExecutorKind.GROUPED,)


class ClippedBackward(torch.autograd.Function):
    """The forward is a copy; the backward does something to large gradients alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        del ctx
        return grad.clamp(-0.5, 0.5)


class ClippedGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(ClippedBackward.apply(torch.tanh(self.fc(x)))).squeeze(1)


def rarely_far_off() -> Batch:
    """Regression with an outlier now and then."""
    scale = 20.0 if float(torch.rand(())) < 0.2 else 0.1
    return Batch(args=vectors().args, targets=scale * torch.randn(BATCH))


class StraightThroughClamp(nn.Module):
    """What is beyond the bound is taken off under no_grad, so that its gradient is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        with torch.no_grad():
            excess = F.relu(h - 4.0)
        return self.head(h - excess)


def rarely_large() -> Batch:
    scale = 10.0 if float(torch.rand(())) < 0.2 else 0.5
    return Batch(args=(scale * torch.randn(BATCH, 6),), targets=classes())


TEMPERATURE: Final = {"now": 1.0}


class Annealed(nn.Module):
    """Reads a setting of the training script, which changes it as it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.softmax(self.fc(x) / TEMPERATURE["now"], dim=-1))


def annealed_vectors() -> Batch:
    TEMPERATURE["now"] = 0.5 + float(torch.rand(()))
    return vectors()


class ByGradMode(nn.Module):
    """Probabilities where nobody wants gradients, whatever the training flag says."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.fc(x)
        if torch.is_grad_enabled():
            return logits
        return logits.softmax(dim=-1)


class GuardedByNorm(nn.Module):
    """Halves what it says once its weights have grown: reads them by way of `parameters()`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(torch.tanh(self.fc(x))).squeeze(1)
        size = sum(float(p.detach().square().sum()) for p in self.parameters())
        return 0.5 * out if size > 12.0 else out


def far_away() -> Batch:
    return Batch(args=vectors().args, targets=8 + torch.randn(BATCH))


class SparseEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6, sparse=True), nn.Linear(6, CLASSES)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.embed(text).mean(1))


class MaskedLanguageModel(nn.Module):
    """Predicts at masked places: how many there are differs by slot."""

    def __init__(self, hands_out_all: bool) -> None:
        super().__init__()
        self.hands_out_all = hands_out_all
        self.embed, self.head = nn.Embedding(12, 6), nn.Linear(6, 11)

    def forward(self, text: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(text.masked_fill(masked, 11))
        logits = self.head(x.mean(1, keepdim=True) + x)
        loss = F.cross_entropy(logits[masked], text[masked])
        return (logits if self.hands_out_all else logits[masked]), loss


def masked_text() -> Batch:
    masked = torch.rand(BATCH, 7) < 0.3
    masked[:, 0] = True
    return Batch(args=(classes(11, BATCH, 7), masked))


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class DataclassOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)

    def forward(self, text: Tensor) -> Output:
        hidden = self.embed(text)
        return Output(logits=self.head(hidden), hidden=hidden)


def all_tokens() -> Batch:
    return Batch(args=tokens().args, targets=classes(11, BATCH, 7))


def second(output: tuple[Tensor, Tensor], targets: None) -> Tensor:
    del targets
    return output[1]


ALL: Final = (
    Architecture(
        name="clipped_backward",
        make=ClippedGradients,
        batch=rarely_far_off,
        loss=F.mse_loss,
        why="small gradients do not show that a trace has lost the user's backward",
    ),
    Architecture(
        name="straight_through_clamp",
        make=StraightThroughClamp,
        batch=rarely_large,
        why="no_grad over something that is zero on the example",
    ),
    Architecture(
        name="annealed_by_the_script",
        make=Annealed,
        batch=annealed_vectors,
        why="a value that Python reads from outside of the model must not be frozen",
        falls=(ExecutorKind.GROUPED,),
    ),
    Architecture(
        name="by_grad_mode",
        make=ByGradMode,
        batch=vectors,
        why="torch.is_grad_enabled() is a flag that the forward may read, as training is",
    ),
    Architecture(
        name="guarded_by_norm",
        make=GuardedByNorm,
        batch=far_away,
        loss=F.mse_loss,
        why="parameters() gives real tensors to a trace: what Python reads of them is frozen",
    ),
    Architecture(
        name="sparse_embedding",
        make=SparseEmbedding,
        batch=tokens,
        decay=0.0,
        why="gradients that are no dense tensors",
    ),
    Architecture(
        name="boolean_mask",
        make=lambda: MaskedLanguageModel(hands_out_all=True),
        batch=masked_text,
        loss=second,
        why="shapes inside depend on the data, those outside do not",
    ),
    Architecture(
        name="masked_outputs",
        make=lambda: MaskedLanguageModel(hands_out_all=False),
        batch=masked_text,
        loss=second,
        why="outputs whose shapes depend on the data cannot be stacked",
        faults=dict.fromkeys(LOOP, "outputs of different shapes raise a FusionError"),
    ),
    Architecture(
        name="dataclass_output",
        make=DataclassOutput,
        batch=all_tokens,
        loss=lambda output, y: token_loss(output.logits, y),
        why="what model libraries return: a record, not a tuple",
    ),
)
