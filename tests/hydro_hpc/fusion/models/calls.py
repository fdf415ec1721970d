"""Inputs that are no single tensor, losses that are the model's own, and other domains."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    classes,
    own_loss,
    vectors,
)

NODES: Final = 7


class DictModel(nn.Module):
    """A dict in, a keyword tensor, a plain keyword, a nested tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.kinds = nn.Linear(3, 8), nn.Embedding(7, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(
        self, batch: dict[str, Tensor], *, weight: Tensor | None = None, scale: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.numbers(batch["numbers"]) + self.kinds(batch["kind"])
        if weight is not None:
            h = h * weight.unsqueeze(1)
        return self.head(torch.tanh(h)) * scale, {"hidden": h, "norm": h.norm(dim=1)}


def mixed_inputs() -> Batch:
    inputs = {"numbers": torch.randn(BATCH, 3), "kind": classes(7)}
    weight = torch.rand(BATCH)
    return Batch(args=(inputs,), kwargs={"weight": weight, "scale": 0.5}, targets=classes())


class OwnLoss(nn.Module):
    """All by keyword; the loss is a field of what it returns, with a weighted sum of losses."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.head, self.count = nn.Linear(8, CLASSES), nn.Linear(8, 1)
        self.log_vars = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, labels: Tensor, counts: Tensor) -> dict[str, Tensor]:
        h = F.mish(self.trunk(x))
        logits = self.head(h)
        both = torch.stack(
            [
                F.cross_entropy(logits, labels, label_smoothing=0.1),
                F.poisson_nll_loss(self.count(h).squeeze(-1), counts),
            ]
        )
        loss = (torch.exp(-self.log_vars) * both + self.log_vars).sum()
        return {"loss": loss, "logits": logits}


def two_tasks() -> Batch:
    x = torch.randn(BATCH, 6)
    return Batch(kwargs={"x": x, "labels": classes(), "counts": torch.rand(BATCH) * 3})


def field_loss(output: dict[str, Tensor], targets: None) -> Tensor:
    del targets
    return output["loss"]


class InfoNCE(nn.Module):
    """Contrasts a batch with itself: the loss needs all examples of one trial, and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.log_temperature = nn.Parameter(torch.tensor(0.0))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        za, zb = F.normalize(self.net(a), dim=1), F.normalize(self.net(b), dim=-1)
        logits = za @ zb.t() * self.log_temperature.exp()
        labels = torch.arange(len(a), device=a.device)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
        return logits, loss


def two_views() -> Batch:
    x = torch.randn(BATCH, 6)
    return Batch(args=(x, x + 0.1 * torch.randn_like(x)))


class GraphConv(nn.Module):
    """Dense adjacency, normalised in forward; a parameter before @."""

    def __init__(self) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.randn(6, 8) / 3)
        self.weight2 = nn.Parameter(torch.randn(8, CLASSES) / 3)
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        adj = adj + torch.eye(adj.size(0), dtype=x.dtype)
        d = adj.sum(1).pow(-0.5)
        adj = d[:, None] * adj * d[None, :]
        h = F.relu(torch.mm(adj, torch.mm(x, self.weight1)) + self.bias)
        return F.log_softmax(adj @ (h @ self.weight2), dim=1)


def graph() -> Batch:
    edges = torch.bernoulli(torch.full((NODES, NODES), 0.4)).triu(1)
    return Batch(args=(torch.randn(NODES, 6), edges + edges.t()), targets=classes(CLASSES, NODES))


class EdgeConv(nn.Module):
    """Messages along a list of edges, gathered by index and added where they arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(12, 8), nn.GRUCell(8, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        m = F.relu(self.message(torch.cat([x[source], x[target]], dim=-1)))
        total = torch.zeros(x.size(0), 8, dtype=x.dtype).index_add(0, target, m)
        return self.head(self.update(total, x))


def edge_list() -> Batch:
    edges = classes(NODES, 2, 9)
    return Batch(args=(torch.randn(NODES, 6), edges), targets=classes(CLASSES, NODES))


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(11, 6, mode="mean")
        self.fc = nn.Linear(6, CLASSES)
        self.embedding.weight.data.uniform_(-0.5, 0.5)

    def forward(self, text: Tensor, offsets: Tensor) -> Tensor:
        return self.fc(self.embedding(text, offsets))


def bags() -> Batch:
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), classes(4, BATCH - 1) + 1]).cumsum(0)
    return Batch(args=(classes(11, 17), offsets), targets=classes())


class DeepFM(nn.Module):
    def __init__(self, fields: tuple[int, ...] = (4, 7, 3), width: int = 5) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, width) for n in fields)
        self.linear = nn.ModuleList(nn.Embedding(n, 1) for n in fields)
        self.deep = nn.Sequential(
            nn.Linear(len(fields) * width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
        )
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        v = torch.stack([e(x[:, i]) for i, e in enumerate(self.embeddings)], dim=1)
        first = sum(e(x[:, i]) for i, e in enumerate(self.linear))
        square_of_sum, sum_of_squares = v.sum(1) ** 2, (v**2).sum(1)
        fm = 0.5 * (square_of_sum - sum_of_squares).sum(1, keepdim=True)
        return (self.bias + first + fm + self.deep(v.flatten(1))).squeeze(1)


def clicks() -> Batch:
    x = torch.stack([classes(n) for n in (4, 7, 3)], dim=1)
    return Batch(args=(x,), targets=torch.randint(0, 2, (BATCH,)).double())


class FourierOperator(nn.Module):
    """Complex weights between two Fourier transforms."""

    def __init__(self, width: int = 4, modes: int = 3) -> None:
        super().__init__()
        self.modes = modes
        self.lift, self.project = nn.Linear(1, width), nn.Linear(width, 1)
        self.weights = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cdouble) / width)
        self.skip = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x.unsqueeze(-1)).permute(0, 2, 1)
        spectrum = torch.fft.rfft(h)
        out = torch.zeros_like(spectrum)
        mixed = torch.einsum("bim,iom->bom", spectrum[:, :, : self.modes], self.weights)
        out[:, :, : self.modes] = mixed
        h = F.gelu(torch.fft.irfft(out, n=h.size(-1)) + self.skip(h))
        return self.project(h.permute(0, 2, 1)).squeeze(-1)


def functions() -> Batch:
    x = torch.randn(BATCH, 9)
    return Batch(args=(x,), targets=x.cumsum(1) / 3)


def bilinear() -> nn.Module:
    return nn.Bilinear(3, 2, CLASSES)


def two_factors() -> Batch:
    return Batch(args=(torch.randn(BATCH, 3), torch.randn(BATCH, 2)), targets=classes())


class Policy(NamedTuple):
    log_prob: Tensor
    loss: Tensor


class ActorCritic(nn.Module):
    """A Gaussian policy with its own scale, and a value; samples while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.mean, self.value = nn.Linear(8, 2), nn.Linear(8, 1)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Policy:
        h = self.base(x)
        policy = torch.distributions.Normal(self.mean(h), self.log_std.exp().expand(len(h), -1))
        action = policy.sample()
        log_prob = policy.log_prob(action).sum(-1)
        advantage = action.prod(-1) - self.value(h).squeeze(-1)
        loss = -(log_prob * advantage.detach()).mean() + advantage.pow(2).mean()
        return Policy(log_prob=log_prob, loss=loss - 0.01 * policy.entropy().mean())


ALL: Final = (
    Architecture(
        name="dict_and_keywords",
        make=DictModel,
        batch=mixed_inputs,
        loss=lambda output, y: F.cross_entropy(output[0], y) + 0.1 * output[1]["norm"].mean(),
        why="a dict, keywords that are tensors and that are not, a dict in a tuple out",
    ),
    Architecture(
        name="own_loss",
        make=OwnLoss,
        batch=two_tasks,
        loss=field_loss,
        why="returns its own loss, a scalar per trial, beside outputs",
    ),
    Architecture(
        name="info_nce",
        make=InfoNCE,
        batch=two_views,
        loss=own_loss,
        why="len(x), .t() and a scalar parameter: every example meets every other of its trial",
    ),
    Architecture(
        name="graph_conv",
        make=GraphConv,
        batch=graph,
        loss=F.nll_loss,
        why="an adjacency has no batch axis; eye, mm and None in an index",
    ),
    Architecture(
        name="edge_conv",
        make=EdgeConv,
        batch=edge_list,
        why="a tensor unpacked in Python, indices that reach only their own trial's rows",
    ),
    Architecture(
        name="bag_of_words",
        make=BagOfWords,
        batch=bags,
        why="bags of different sizes by offsets: the first axis is neither batch nor slots",
    ),
    Architecture(
        name="deep_fm",
        make=DeepFM,
        batch=clicks,
        loss=F.binary_cross_entropy_with_logits,
        why="columns of an index, sum() in Python that starts at 0, squares of sums",
    ),
    Architecture(
        name="fourier_operator",
        make=FourierOperator,
        batch=functions,
        loss=F.mse_loss,
        why="complex parameters and their gradients beside real ones",
    ),
    Architecture(
        name="bilinear", make=bilinear, batch=two_factors, why="the model is one torch module"
    ),
    Architecture(
        name="actor_critic",
        make=ActorCritic,
        batch=lambda: Batch(args=vectors().args),
        loss=own_loss,
        why="torch.distributions checks values and draws samples",
        checks_values=True,
    ),
)
