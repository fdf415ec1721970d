"""Normalisation with statistics, gains and counters per slot."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused


class BatchNorm(Fused):
    """[F, B, C, ...] -> the same; equals F `torch.nn.BatchNorm1d` or `2d`.

    `ranks` are the unfused ranks that it takes. Running statistics [F, C] and the counter [F] are
    the bundle's buffers, updated in place; None where the modules keep none.
    """

    def __init__(
        self,
        weight_FC: nn.Parameter | None,
        bias_FC: nn.Parameter | None,
        statistics: tuple[Tensor, Tensor, Tensor] | None,
        *,
        momentum: float,
        eps: float,
        ranks: Sequence[int],
    ) -> None:
        super().__init__(momentum=momentum, eps=eps)
        self.weight, self.bias = weight_FC, bias_FC
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        mean_FC, var_FC, batches_F = statistics or (None, None, None)
        self.register_buffer("running_mean", mean_FC)
        self.register_buffer("running_var", var_FC)
        self.register_buffer("num_batches_tracked", batches_F)
        self.ranks = tuple(ranks)

    @classmethod
    def one_dimensional(cls, members: Members) -> BatchNorm:
        return cls._of(members, ranks=(2, 3))

    @classmethod
    def two_dimensional(cls, members: Members) -> BatchNorm:
        return cls._of(members, ranks=(4,))

    @classmethod
    def _of(cls, members: Members, ranks: Sequence[int]) -> BatchNorm:
        momentum = members.same("momentum")
        if momentum is None:
            raise Refused(f"{members.where}: momentum=None has no fused rule")
        names = ("running_mean", "running_var", "num_batches_tracked")
        found = [members.tensors[name] for name in names if name in members.tensors]
        if len(found) != (3 if members.same("track_running_stats") else 0):
            raise Refused(f"{members.where}: track_running_stats and its buffers do not agree")
        return cls(
            members.optional_parameter("weight"),
            members.optional_parameter("bias"),
            (found[0], found[1], found[2]) if found else None,
            momentum=momentum,
            eps=members.same("eps"),
            ranks=ranks,
        )

    def forward(self, x_FBC: Tensor) -> Tensor:
        if x_FBC.ndim - 1 not in self.ranks:
            raise ValueError(f"batch norm takes rank {self.ranks}, not {x_FBC.ndim - 1}")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        elements = x_FBC[0].numel() // x_FBC.size(2)
        by_batch = self.training or self.running_mean is None
        if by_batch and elements == 1:
            raise ValueError("expected more than 1 value per channel when training")
        return functional.batch_norm(
            x_FBC,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=by_batch,
            **self.settings,
        )


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
