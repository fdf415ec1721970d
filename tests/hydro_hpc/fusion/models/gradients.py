"""Models that take part in their own backward: autograd functions, checkpoints, hooks."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    own_loss,
    vectors,
)


class Swish(torch.autograd.Function):
    """Old style: forward has the context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s * (1 + x * (1 - s)))


class Reversal(torch.autograd.Function):
    """New style: the context is set up apart."""

    @staticmethod
    def forward(x: Tensor, strength: float) -> Tensor:
        del strength
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        del output
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None


class Binarize(torch.autograd.Function):
    """A straight-through estimator that says itself how it is batched."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Between(nn.Module):
    """Two linear layers with an autograd function between them."""

    def __init__(self, function: type[torch.autograd.Function], *settings: Any) -> None:
        super().__init__()
        self.function, self.settings = function, settings
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.function.apply(self.fc1(x), *self.settings))


class Checkpointed(nn.Module):
    """Blocks with dropout are run again in the backward, with the same masks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.3)) for _ in range(2)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + checkpoint(self.blocks[0], x, use_reentrant=False)
        if self.training:
            return self.head(x + checkpoint(self.blocks[1], x, use_reentrant=True))
        return self.head(x + self.blocks[1](x))


class PINN(nn.Module):
    """Returns the solution and its derivative, which the loss asks for: a gradient in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            u = self.net(x)
            (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return u, du


def equation(output: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    u, du = output
    return (du.sum(1) + u.squeeze(1) - y).square().mean()


def places() -> Batch:
    return Batch(args=(torch.rand(BATCH, 2),), targets=torch.rand(BATCH))


class InnerLoop(nn.Module):
    """One gradient step on half of the batch before it is asked about the other, as MAML does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.log_rate = nn.Parameter(torch.tensor(-2.0))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            weights = dict(self.net.named_parameters())
            inner = F.mse_loss(self.net(x[:2]).squeeze(1), y[:2])
            grads = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
            rate = self.log_rate.exp()
            fast = {n: w - rate * g for (n, w), g in zip(weights.items(), grads, strict=True)}
            out = torch.func.functional_call(self.net, fast, (x,)).squeeze(1)
        return out, F.mse_loss(out, y)


def few_shots() -> Batch:
    x = torch.randn(BATCH, 6)
    return Batch(args=(x, torch.sin(x.sum(1))))


class VectorQuantizer(nn.Module):
    """The nearest code by argmin, gradients straight through, two losses with detach."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec, self.codes = nn.Linear(9, 3), nn.Linear(3, 9), nn.Embedding(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.enc(x)
        squares = z.pow(2).sum(1, keepdim=True) + self.codes.weight.pow(2).sum(1)
        nearest = torch.argmin(squares - 2 * z @ self.codes.weight.t(), dim=1)
        q = self.codes(nearest)
        commitment = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        return self.dec(z + (q - z).detach()), commitment


def quantized(output: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    return F.mse_loss(output[0], x) + output[1]


def reconstruction() -> Batch:
    x = torch.rand(BATCH, 9)
    return Batch(args=(x,), targets=x.clone())


class ForwardHooks(nn.Module):
    """Hooks that are methods: one keeps features for the head, one changes an output."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7))
        self.head = nn.Linear(15, CLASSES)
        self.features: dict[str, Tensor] = {}
        self.trunk[1].register_forward_hook(self.keep)
        self.trunk[2].register_forward_hook(self.twice)

    def keep(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        del module, args
        self.features["hidden"] = output

    def twice(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        del module, args
        return 2 * output

    def forward(self, x: Tensor) -> Tensor:
        out = self.trunk(x)
        return self.head(torch.cat([out, self.features["hidden"]], dim=1))


def scaled(module: nn.Module, grad_in: tuple[Tensor, ...], grad_out: Any) -> tuple[Tensor, ...]:
    del module, grad_out
    return tuple(0.5 * grad for grad in grad_in)


def backward_hook() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    model[1].register_full_backward_hook(scaled)
    return model


ALL: Final = (
    Architecture(
        name="old_autograd_function",
        make=lambda: Between(Swish),
        batch=vectors,
        why="cannot be batched by torch: backward is the user's own",
    ),
    Architecture(
        name="new_autograd_function",
        make=lambda: Between(Reversal, 0.5),
        batch=vectors,
        why="gradient reversal: the forward alone looks like an identity",
    ),
    Architecture(
        name="batched_autograd_function",
        make=lambda: Between(Binarize),
        batch=vectors,
        why="comes with a rule for vmap; the forward alone has no gradient",
    ),
    Architecture(
        name="checkpointed",
        make=Checkpointed,
        batch=vectors,
        why="the backward runs the forward again: with whose weights, and which masks?",
    ),
    Architecture(
        name="pinn",
        make=PINN,
        batch=places,
        loss=equation,
        why="autograd.grad inside forward: the bundle's backward is a second one",
    ),
    Architecture(
        name="inner_loop",
        make=InnerLoop,
        batch=few_shots,
        loss=own_loss,
        why="gradients of gradients, and functional_call on its own weights",
    ),
    Architecture(
        name="vector_quantizer",
        make=VectorQuantizer,
        batch=reconstruction,
        loss=quantized,
        why="argmin, detach in both directions, rows of a table that nobody chose",
    ),
    Architecture(
        name="forward_hooks",
        make=ForwardHooks,
        batch=vectors,
        why="what a hook keeps and what it changes is part of the model",
    ),
    Architecture(
        name="backward_hook",
        make=backward_hook,
        batch=vectors,
        why="a module's hook changes gradients on their way",
    ),
)
