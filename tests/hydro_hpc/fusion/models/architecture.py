"""What the zoo knows of one model: how to build it, feed it and judge it, and why it is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.fusion import ExecutorKind

BATCH: Final = 5
CLASSES: Final = 4
BOTH: Final = (ExecutorKind.GROUPED, ExecutorKind.LOOP)
LOOP: Final = (ExecutorKind.LOOP,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step's inputs of ONE model, as its owner would call it, and what its loss needs."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Architecture:
    """`make` is called with float64 as torch's default type. `why` says what would go wrong with a
    careless binder. `rate` scales learning rates, for models that would amplify rounding; `decay`
    is the weight decay of slot 1, and slot 2 has twice that.

    `faults` is what today's code does wrong, by executor: an expected failure. `misjudged` is why
    verification refuses even the loop, which then runs all the same. A model leaves the executors
    in `falls` for the loop on the way. `refused` is what binding says instead of binding it. One
    that `checks_values` raises for NaN: its neighbours then run by the loop, with other last bits.
    """

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    why: str
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    rate: float = 1.0
    decay: float = 0.01
    faults: Mapping[ExecutorKind, str] = field(default_factory=dict)
    misjudged: str | None = None
    falls: tuple[ExecutorKind, ...] = ()
    refused: str | None = None
    checks_values: bool = False


def classes(count: int = CLASSES, *shape: int) -> Tensor:
    return torch.randint(0, count, shape or (BATCH,))


def vectors(width: int = 6) -> Batch:
    """[batch, width] and a class each."""
    return Batch(args=(torch.randn(BATCH, width),), targets=classes())


def images(channels: int = 2, size: int = 6) -> Batch:
    """[batch, channels, size, size] and a class each."""
    return Batch(args=(torch.randn(BATCH, channels, size, size),), targets=classes())


def series(channels: int = 2, length: int = 7) -> Batch:
    """[batch, channels, length] and a class each."""
    return Batch(args=(torch.randn(BATCH, channels, length),), targets=classes())


def tokens(vocabulary: int = 11, length: int = 7) -> Batch:
    """[batch, length] and a class each."""
    return Batch(args=(classes(vocabulary, BATCH, length),), targets=classes())


def next_tokens(vocabulary: int = 11, length: int = 7) -> Batch:
    """[batch, length] and the token that follows each."""
    text = classes(vocabulary, BATCH, length + 1)
    return Batch(args=(text[:, :-1].contiguous(),), targets=text[:, 1:].contiguous())


def token_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """As people write it: everything flat."""
    return F.cross_entropy(logits_BTV.view(-1, logits_BTV.size(-1)), targets_BT.view(-1))


def own_loss(output: Any, targets: Any) -> Tensor:
    """Of a model that returns (outputs, loss)."""
    del targets
    value = output[1]
    assert isinstance(value, Tensor)
    return value
