"""Networks of linear layers, and what people put between them."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hydro_hpc.fusion import architectures
from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    classes,
    vectors,
)


def flatten_first() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, CLASSES))


def log_softmax_head() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 10), nn.ELU(inplace=True), nn.Linear(10, 10), nn.LogSoftmax(dim=-1)
    )


def prelu_and_softmax() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.PReLU(),
        nn.Linear(8, 7),
        nn.PReLU(7),
        nn.Linear(7, 4),
        nn.Softmax(dim=1),
    )


def nll_of_probabilities(p: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(torch.log(p + 1e-9), y)


class SoftmaxOverBatch(nn.Module):
    """Attention pooling over the batch, as in multiple-instance learning."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.score = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1), nn.Softmax(dim=0))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, bag: Tensor) -> Tensor:
        h = self.embed(bag)
        pooled = (self.score(h) * h).sum(0, keepdim=True)
        return self.head(h + pooled)


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(9, 4)
        self.dec_bias = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.sigmoid(self.enc(x))
        return F.linear(code, self.enc.weight.t(), self.dec_bias)


class Highway(nn.Module):
    def __init__(self, width: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.transforms = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        for gate in self.gates:
            nn.init.constant_(gate.bias, -2.0)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for transform, gate in zip(self.transforms, self.gates, strict=True):
            t = torch.sigmoid(gate(x))
            x = t * F.relu(transform(x)) + (1 - t) * x
        return self.head(x)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.tower(a), self.tower(b)


def contrastive(output: tuple[Tensor, Tensor], same: Tensor) -> Tensor:
    distance = F.pairwise_distance(*output)
    return (same * distance.pow(2) + (1 - same) * F.relu(2.0 - distance).pow(2)).mean()


def pairs() -> Batch:
    a, b = torch.randn(BATCH, 6), torch.randn(BATCH, 6)
    return Batch(args=(a, b), targets=torch.randint(0, 2, (BATCH,)).to(a.dtype))


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 2, alpha: float = 4.0) -> None:
        super().__init__()
        self.base = base
        for p in self.base.parameters():
            p.requires_grad = False
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.lora_a.T @ self.lora_b.T) * self.scaling


def lora() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    for place in (0, 2):
        model[place] = LoRALinear(model[place])
    return model


class SineLayer(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, omega: float = 30.0, first: bool = False) -> None:
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(fan_in, fan_out)
        bound = 1 / fan_in if first else math.sqrt(6 / fan_in) / omega
        with torch.no_grad():
            self.linear.weight.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


def siren() -> nn.Module:
    return nn.Sequential(SineLayer(2, 8, first=True), SineLayer(8, 8), nn.Linear(8, 3))


def points(width: int, targets: int) -> Batch:
    return Batch(args=(torch.rand(BATCH, width) * 2 - 1,), targets=torch.rand(BATCH, targets))


class NeRF(nn.Module):
    """Positional encoding by a loop over frequencies, a skip connection, two heads."""

    def __init__(self, frequencies: int = 3) -> None:
        super().__init__()
        self.frequencies = frequencies
        encoded = 3 + 3 * 2 * frequencies
        self.first = nn.Linear(encoded, 8)
        self.second = nn.Linear(8 + encoded, 8)
        self.sigma, self.rgb = nn.Linear(8, 1), nn.Linear(8, 3)

    def encode(self, x: Tensor) -> Tensor:
        parts = [x]
        for i in range(self.frequencies):
            for fn in (torch.sin, torch.cos):
                parts.append(fn((2.0**i) * math.pi * x))
        return torch.cat(parts, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        e = self.encode(x)
        h = F.relu(self.first(e))
        h = F.relu(self.second(torch.cat([h, e], dim=-1)))
        return torch.cat([torch.sigmoid(self.rgb(h)), F.softplus(self.sigma(h))], dim=-1)


class RBFNet(nn.Module):
    def __init__(self, centres: int = 7) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(centres, 6))
        self.log_sigmas = nn.Parameter(torch.zeros(centres))
        self.head = nn.Linear(centres, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        distances = torch.cdist(x, self.centres)
        return self.head(torch.exp(-((distances / torch.exp(self.log_sigmas)) ** 2)))


class RawEinsum(nn.Module):
    """No module inside at all: parameters in a list and by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(6, 8) / 3), nn.Parameter(torch.randn(8, CLASSES) / 3)]
        )
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(torch.einsum("bi,ih->bh", x, self.weights[0]) + self.bias)
        return torch.einsum("bh,ho->bo", h, self.weights[1])


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc_mu, self.fc_var = nn.Linear(9, 7), nn.Linear(7, 2), nn.Linear(7, 2)
        self.fc3, self.fc4 = nn.Linear(2, 7), nn.Linear(7, 9)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x.view(-1, 9)))
        mu, logvar = self.fc_mu(h), self.fc_var(h)
        z = self.reparameterize(mu, logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def elbo(output: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    recon, mu, logvar = output
    bce = F.binary_cross_entropy(recon, x, reduction="sum")
    return (bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / x.size(0)


def reconstruction() -> Batch:
    x = torch.rand(BATCH, 9)
    return Batch(args=(x,), targets=x.clone())


def two_inputs() -> Batch:
    return Batch(args=(torch.randn(BATCH, 3), torch.randn(BATCH, 2)), targets=torch.randn(BATCH))


def matrices() -> Batch:
    return Batch(args=(torch.randn(BATCH, 2, 8),), targets=classes())


ALL: Final = (
    Architecture(
        name="mlp", make=architectures.mlp, batch=vectors, why="the form that everybody starts with"
    ),
    Architecture(
        name="mlp_with_norms_and_dropout",
        make=architectures.mlp_with_norms_and_dropout,
        batch=vectors,
        why="running statistics and dropout masks are each slot's own",
    ),
    Architecture(
        name="flatten_first",
        make=flatten_first,
        batch=matrices,
        why="a flatten that takes the slots for the batch shrinks 16 inputs to 2",
    ),
    Architecture(
        name="log_softmax_head",
        make=log_softmax_head,
        batch=lambda: Batch(args=vectors().args, targets=classes(10)),
        loss=F.nll_loss,
        why="ten classes became one elsewhere: the soft-max ran over another axis",
    ),
    Architecture(
        name="prelu_and_softmax",
        make=prelu_and_softmax,
        batch=vectors,
        loss=nll_of_probabilities,
        why="a slope is a weight and was shared by all trials elsewhere; dim=1 is not axis 1",
    ),
    Architecture(
        name="softmax_over_batch",
        make=SoftmaxOverBatch,
        batch=vectors,
        why="dim=0 is the batch of one trial, not the slots",
    ),
    Architecture(
        name="tied_autoencoder",
        make=TiedAutoencoder,
        batch=reconstruction,
        loss=F.mse_loss,
        why="one weight used twice, once transposed: two gradients into one",
    ),
    Architecture(
        name="highway", make=Highway, batch=vectors, why="two module lists walked in step"
    ),
    Architecture(
        name="siamese",
        make=Siamese,
        batch=pairs,
        loss=contrastive,
        why="one module twice in a forward: statistics are updated twice, gradients added",
    ),
    Architecture(
        name="lora", make=lora, batch=vectors, why="frozen weights inside, .T and @ of parameters"
    ),
    Architecture(
        name="siren",
        make=siren,
        batch=lambda: points(2, 3),
        loss=F.mse_loss,
        rate=0.01,
        why="a Python number in each layer, and sines that amplify any error",
    ),
    Architecture(
        name="nerf",
        make=NeRF,
        batch=lambda: points(3, 4),
        loss=F.mse_loss,
        why="a Python loop that builds features, dim=-1 throughout",
    ),
    Architecture(
        name="rbf",
        make=RBFNet,
        batch=vectors,
        why="cdist broadcasts leading axes: a bare parameter would meet every slot",
    ),
    Architecture(
        name="raw_einsum",
        make=RawEinsum,
        batch=vectors,
        why="subscripts name the axes of one trial; parameters belong to no layer",
    ),
    Architecture(
        name="vae",
        make=VAE,
        batch=reconstruction,
        loss=elbo,
        why="draws noise in forward, returns a tuple, has a loss of its own with sums over all",
    ),
    Architecture(
        name="two_inputs",
        make=architectures.TwoInputs,
        batch=two_inputs,
        loss=lambda output, y: F.mse_loss(output["mean"], y) + output["hidden"].square().mean(),
        why="two inputs, a keyword with a default, a dict out",
    ),
)
