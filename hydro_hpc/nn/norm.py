"""Normalisation with statistics, gains and counters per slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused

# The unfused ranks that each takes; the first is that without a batch, where there is one.
BATCH_RANKS: Final[dict[type[nn.Module], tuple[int, ...]]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}
INSTANCE_RANKS: Final[dict[type[nn.Module], tuple[int, int]]] = {
    nn.InstanceNorm1d: (2, 3),
    nn.InstanceNorm2d: (3, 4),
    nn.InstanceNorm3d: (4, 5),
}
Statistics = tuple[Tensor, Tensor, Tensor]


class Norm(Fused):
    """Gains, offsets and, where the modules keep them, running statistics [F, C] and a counter [F]:
    the bundle's buffers, updated in place. `ranks` are the unfused ranks that it takes."""

    def __init__(
        self,
        weight_FC: nn.Parameter | None,
        bias_FC: nn.Parameter | None,
        statistics: Statistics | None,
        *,
        ranks: Sequence[int],
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.weight, self.bias = weight_FC, bias_FC
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        mean_FC, var_FC, batches_F = statistics or (None, None, None)
        self.register_buffer("running_mean", mean_FC)
        self.register_buffer("running_var", var_FC)
        self.register_buffer("num_batches_tracked", batches_F)
        self.ranks = tuple(ranks)

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """As torch's functions take them."""
        return self.running_mean, self.running_var, self.weight, self.bias

    def require_rank(self, x_FBC: Tensor) -> None:
        if x_FBC.ndim - 1 not in self.ranks:
            raise ValueError(f"the norm takes rank {self.ranks}, not {x_FBC.ndim - 1}")


class BatchNorm(Norm):
    """[F, B, C, ...] -> the same; equals F `torch.nn.BatchNorm1d`, `2d` or `3d`.

    `momenta` has one per slot; None is the average of all batches so far.
    """

    momenta: Sequence[float | None]

    @classmethod
    def of(cls, members: Members) -> BatchNorm:
        fused = cls(
            members.optional_parameter("weight"),
            members.optional_parameter("bias"),
            statistics_of(members),
            ranks=BATCH_RANKS[type(members.modules[0])],
            eps=members.same("eps"),
        )
        fused.momenta = [module.momentum for module in members.modules]  # type: ignore[misc]
        return fused

    def forward(self, x_FBC: Tensor) -> Tensor:
        self.require_rank(x_FBC)
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        elements = x_FBC[0].numel() // x_FBC.size(2)
        by_batch = self.training or self.running_mean is None
        if by_batch and elements == 1:
            raise ValueError("expected more than 1 value per channel when training")
        return functional.batch_norm(
            x_FBC, *self.tensors, training=by_batch, momentum=self._momentum(), **self.settings
        )

    def _momentum(self) -> float | Tensor:
        """One number where all slots have the same."""
        first = self.momenta[0]
        if first is not None and all(momentum == first for momentum in self.momenta):
            return first
        if self.num_batches_tracked is None:
            return 0.0
        counted_F = self.num_batches_tracked.double()
        given = [0.0 if m is None else m for m in self.momenta]
        given_F = torch.tensor(given, dtype=torch.float64, device=counted_F.device)
        averages = [momentum is None for momentum in self.momenta]
        averages_F = torch.tensor(averages, device=counted_F.device)
        return torch.where(averages_F, 1 / counted_F, given_F)

    def _adopt(self, fresh: Fused) -> None:
        super()._adopt(fresh)
        assert isinstance(fresh, BatchNorm)
        self.momenta = fresh.momenta


class InstanceNorm(Norm):
    """[F, B, C, ...] -> the same, or without B; equals F `torch.nn.InstanceNorm1d`, `2d`, `3d`."""

    @classmethod
    def of(cls, members: Members) -> InstanceNorm:
        return cls(
            members.optional_parameter("weight"),
            members.optional_parameter("bias"),
            statistics_of(members),
            ranks=INSTANCE_RANKS[type(members.modules[0])],
            momentum=members.same("momentum"),
            eps=members.same("eps"),
        )

    def forward(self, x_FBC: Tensor) -> Tensor:
        self.require_rank(x_FBC)
        if x_FBC.ndim - 1 == self.ranks[0]:
            return self.forward(x_FBC.unsqueeze(1)).squeeze(1)
        by_input = self.training or self.running_mean is None
        settings = {**self.settings, "momentum": self.settings["momentum"] or 0.0}
        return functional.instance_norm(x_FBC, *self.tensors, use_input_stats=by_input, **settings)


class GroupNorm(Fused):
    """[F, B, C, ...] -> the same; equals F `torch.nn.GroupNorm`."""

    def __init__(
        self, weight_FC: nn.Parameter | None, bias_FC: nn.Parameter | None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.weight, self.bias = weight_FC, bias_FC

    @classmethod
    def of(cls, members: Members) -> GroupNorm:
        weight, bias = members.optional_parameter("weight"), members.optional_parameter("bias")
        groups, eps = members.same("num_groups"), members.same("eps")
        return cls(weight, bias, num_groups=groups, eps=eps)

    def forward(self, x_FBC: Tensor) -> Tensor:
        groups, eps = self.settings["num_groups"], self.settings["eps"]
        return functional.group_norm(x_FBC, groups, self.weight, self.bias, eps)


class LayerNorm(Fused):
    """[F, ..., *shape] -> the same; equals F `torch.nn.LayerNorm`."""

    def __init__(
        self,
        shape: Sequence[int],
        weight_FD: nn.Parameter | None,
        bias_FD: nn.Parameter | None,
        *,
        eps: float,
    ) -> None:
        super().__init__(shape=tuple(shape), eps=eps)
        self.weight, self.bias = weight_FD, bias_FD

    @classmethod
    def of(cls, members: Members) -> LayerNorm:
        weight, bias = members.optional_parameter("weight"), members.optional_parameter("bias")
        return cls(members.same("normalized_shape"), weight, bias, eps=members.same("eps"))

    def forward(self, x_FBD: Tensor) -> Tensor:
        return functional.layer_norm(x_FBD, self.weight, self.bias, **self.settings)


class RMSNorm(Fused):
    """[F, ..., *shape] -> the same; equals F `torch.nn.RMSNorm`."""

    def __init__(
        self, shape: Sequence[int], weight_FD: nn.Parameter | None, *, eps: float | None
    ) -> None:
        super().__init__(shape=tuple(shape), eps=eps)
        self.weight = weight_FD

    @classmethod
    def of(cls, members: Members) -> RMSNorm:
        weight = members.optional_parameter("weight")
        return cls(members.same("normalized_shape"), weight, eps=members.same("eps"))

    def forward(self, x_FBD: Tensor) -> Tensor:
        return functional.rms_norm(x_FBD, self.weight, **self.settings)


def statistics_of(members: Members) -> Statistics | None:
    """The stacked running mean, variance and counter; None where the modules keep none."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    found = [members.tensors[name] for name in names if name in members.tensors]
    if len(found) != (3 if members.same("track_running_stats") else 0):
        raise Refused(f"{members.where}: track_running_stats and its buffers do not agree")
    return (found[0], found[1], found[2]) if found else None
