"""Stochastic gradient descent with momentum, per slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.optim.hyperparameters import PerSlot
from hydro_hpc.optim.optimizer import Moments, SlotOptimizer


class SGD(SlotOptimizer):
    """Equals `torch.optim.SGD` in every slot. Each setting is one number or one per slot;
    `nesterov` is one truth value or one per slot."""

    TENSORS: ClassVar = ("momentum_buffer",)
    TORCH: ClassVar = torch.optim.SGD
    RANGES: ClassVar = {
        "lr": (0.0, float("inf")),
        "momentum": (0.0, float("inf")),
        "weight_decay": (0.0, float("inf")),
    }

    def __init__(
        self,
        bundle: Bundle,
        *,
        lr: PerSlot = 1e-3,
        momentum: PerSlot = 0.0,
        dampening: PerSlot = 0.0,
        weight_decay: PerSlot = 0.0,
        nesterov: PerSlot = False,
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(bundle, settings)

    def _check(self, hyper: Mapping[str, Tensor]) -> None:
        super()._check(hyper)
        is_wrong = (hyper["nesterov"] != 0) & ((hyper["momentum"] <= 0) | (hyper["dampening"] != 0))
        if bool(is_wrong.any()):
            slot = int(is_wrong.nonzero()[0])
            raise ValueError(f"nesterov in slot {slot} needs a momentum and no dampening")

    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        values_FP, constant, hyper = moments.block.values_FP, moments.constant, self._hyper
        if bool(hyper["weight_decay"].any()):
            grad_FP.addcmul_(values_FP, constant("decay", lambda: hyper["weight_decay"]))
        has_momentum_F1 = hyper["momentum"][:, None] != 0
        if bool(has_momentum_F1.all()):
            grad_FP = self._accelerated(moments, grad_FP)
        elif bool(has_momentum_F1.any()):
            grad_FP = self._accelerated_where(moments, grad_FP, has_momentum_F1)
        if not bool(has_momentum_F1.all()):
            moments.steps_FN -= (~has_momentum_F1).long()  # a step is one with a buffer
        values_FP.addcmul_(grad_FP, constant("-lr", lambda: -hyper["lr"]))

    def _accelerated(self, moments: Moments, grad_FP: Tensor) -> Tensor:
        """The gradient with momentum, [F, P]; the buffer is brought up to date."""
        hyper, buffer_FP = self._hyper, moments.tensors["momentum_buffer"]
        momentum = moments.constant("momentum", lambda: hyper["momentum"])
        # The first step takes the gradient whole.
        share = torch.where(moments.steps == 1, 1.0, 1.0 - hyper["dampening"][:, None])
        buffer_FP.mul_(momentum).addcmul_(grad_FP, moments.coefficient(share))
        if not bool(hyper["nesterov"].any()):
            return buffer_FP
        is_ahead = moments.constant("nesterov", lambda: hyper["nesterov"]).bool()
        return torch.where(is_ahead, torch.addcmul(grad_FP, buffer_FP, momentum), buffer_FP)

    def _accelerated_where(self, moments: Moments, grad_FP: Tensor, where_F1: Tensor) -> Tensor:
        """The same in some slots; the others' gradients and buffers as they are."""
        buffer_FP, where = moments.tensors["momentum_buffer"], where_F1.to(grad_FP.device)
        before = buffer_FP.clone()
        accelerated_FP = torch.where(where, self._accelerated(moments, grad_FP), grad_FP)
        buffer_FP.copy_(torch.where(where, buffer_FP, before))
        return accelerated_FP

    def _torch_settings(self, slot: int) -> dict[str, Any]:
        settings = super()._torch_settings(slot)
        return {**settings, "nesterov": bool(settings["nesterov"])}

    def _to_torch(self, slot: int, steps: int, own: dict[str, Tensor]) -> dict[str, Any]:
        del slot, steps  # torch's SGD counts none
        return dict(own)
