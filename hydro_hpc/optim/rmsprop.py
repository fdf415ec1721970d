"""RMSprop, per slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.optim.groups import ParameterGroup
from hydro_hpc.optim.hyperparameters import PerSlot
from hydro_hpc.optim.moments import Moments
from hydro_hpc.optim.optimizer import SlotOptimizer
from hydro_hpc.surrogate.rules import Rules


class RMSprop(SlotOptimizer):
    """Equals `torch.optim.RMSprop` in every slot. Each setting is one number or one per slot;
    `centered` and `maximize` are one truth value or one per slot."""

    TENSORS: ClassVar = ("square_avg",)
    OPTIONAL: ClassVar = {"momentum_buffer": "momentum", "grad_avg": "centered"}
    FLAGS: ClassVar = frozenset({"centered", "maximize"})
    TORCH: ClassVar = torch.optim.RMSprop
    RANGES: ClassVar = {
        "lr": (0.0, float("inf")),
        "alpha": (0.0, float("inf")),
        "eps": (0.0, float("inf")),
        "weight_decay": (0.0, float("inf")),
        "momentum": (0.0, float("inf")),
    }

    def __init__(
        self,
        bundle: Bundle,
        *,
        lr: PerSlot = 1e-2,
        alpha: PerSlot = 0.99,
        eps: PerSlot = 1e-8,
        weight_decay: PerSlot = 0.0,
        momentum: PerSlot = 0.0,
        centered: PerSlot = False,
        maximize: PerSlot = False,
        groups: Sequence[ParameterGroup] = (),
        rules: Rules | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(bundle, settings, groups, rules)

    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        values_FP, constant, hyper = moments.block.values_FP, moments.constant, self._hyper
        self._add_decay(moments, grad_FP)
        square_FP = moments.tensors["square_avg"]
        square_FP.mul_(constant("alpha", lambda: hyper["alpha"]))
        self.between()
        square_FP.addcmul_(grad_FP * constant("1 - alpha", lambda: 1.0 - hyper["alpha"]), grad_FP)
        self.between()
        root_FP = self._variance(moments, grad_FP).sqrt()
        self.between()
        root_FP.add_(constant("eps", lambda: hyper["eps"]))
        self.between()
        if "momentum" in self._used:
            update_FP = self._with_momentum(moments, grad_FP, root_FP)
            self.between()
            values_FP.addcmul_(update_FP, constant("-lr", lambda: -hyper["lr"]))
        else:
            grad_FP.mul_(constant("-lr", lambda: -hyper["lr"]))
            values_FP.addcdiv_(grad_FP, root_FP)

    def _with_momentum(self, moments: Moments, grad_FP: Tensor, root_FP: Tensor) -> Tensor:
        """The update, [F, P]: the buffer brought up to date, or where there is no momentum the
        gradient's alone, and the buffer stays for when there is some again."""
        momentum_FG, buffer_FP = self._hyper["momentum"], moments.tensors["momentum_buffer"]
        momentum = moments.constant("momentum", lambda: momentum_FG)
        if bool((moments.of(momentum_FG) > 0).all()):
            return buffer_FP.mul_(momentum).addcdiv_(grad_FP, root_FP)
        next_FP = (buffer_FP * momentum).addcdiv_(grad_FP, root_FP)
        self.between()
        has_momentum = moments.constant("has momentum", lambda: momentum_FG > 0).bool()
        buffer_FP.copy_(torch.where(has_momentum, next_FP, buffer_FP))
        self.between()
        return torch.where(has_momentum, next_FP, grad_FP / root_FP)

    def _has(self, tensor: str, slot: int, group: int, values: Tensor) -> bool:
        is_kept = tensor == "momentum_buffer" and bool(values.any())  # it stays without momentum
        return is_kept or super()._has(tensor, slot, group, values)

    def _variance(self, moments: Moments, grad_FP: Tensor) -> Tensor:
        """The mean square, less the square of the mean where centered."""
        square_FP, hyper = moments.tensors["square_avg"], self._hyper
        if "centered" not in self._used:
            return square_FP
        mean_FP = moments.tensors["grad_avg"]
        mean_FP.lerp_(grad_FP, moments.constant("1 - alpha", lambda: 1.0 - hyper["alpha"]))
        self.between()
        is_centered = moments.constant("centered", lambda: hyper["centered"]).bool()
        return torch.where(
            is_centered, torch.addcmul(square_FP, mean_FP, mean_FP, value=-1), square_FP
        )
