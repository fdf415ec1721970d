"""Stochastic gradient descent with momentum, per slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.optim.groups import ParameterGroup
from hydro_hpc.optim.hyperparameters import PerSlot
from hydro_hpc.optim.moments import Moments
from hydro_hpc.optim.optimizer import SlotOptimizer
from hydro_hpc.surrogate.rules import Rules


class SGD(SlotOptimizer):
    """Equals `torch.optim.SGD` in every slot. Each setting is one number or one per slot;
    `nesterov` and `maximize` are one truth value or one per slot."""

    OPTIONAL: ClassVar = {"momentum_buffer": "momentum"}
    FLAGS: ClassVar = frozenset({"nesterov", "maximize"})
    TORCH: ClassVar = torch.optim.SGD
    RANGES: ClassVar = {
        "lr": (0.0, float("inf")),
        "momentum": (0.0, float("inf")),
        "dampening": (float("-inf"), float("inf")),
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
        maximize: PerSlot = False,
        groups: Sequence[ParameterGroup] = (),
        rules: Rules | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(bundle, settings, groups, rules)

    def _check(self, hyper: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        super()._check(hyper, given)
        is_given = given["nesterov"] | given["momentum"] | given["dampening"]
        needs_FG = (hyper["momentum"] <= 0) | (hyper["dampening"] != 0)
        is_wrong = is_given & (hyper["nesterov"] != 0) & needs_FG
        if bool(is_wrong.any()):
            slot = int(is_wrong.nonzero()[0, 0])
            raise ValueError(f"nesterov in slot {slot} needs a momentum and no dampening")

    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        self._add_decay(moments, grad_FP)
        if "momentum" in self._used:
            grad_FP = self._with_momentum(moments, grad_FP)
        else:
            moments.steps_FN -= 1  # a step is one with a buffer
        step = moments.constant("-lr", lambda: -self._hyper["lr"])
        moments.block.values_FP.addcmul_(grad_FP, step)

    def _with_momentum(self, moments: Moments, grad_FP: Tensor) -> Tensor:
        has_momentum = moments.of(self._hyper["momentum"]) != 0  # [F, 1] or [F, N]
        if bool(has_momentum.all()):
            return self._accelerated(moments, grad_FP)
        moments.steps_FN -= (~has_momentum).long()
        if has_momentum.size(1) > 1:
            moments.count_even()
        return self._accelerated_where(moments, grad_FP, moments.coefficient(has_momentum).bool())

    def _accelerated(self, moments: Moments, grad_FP: Tensor) -> Tensor:
        """The gradient with momentum, [F, P]; the buffer is brought up to date."""
        hyper, buffer_FP = self._hyper, moments.tensors["momentum_buffer"]
        momentum = moments.constant("momentum", lambda: hyper["momentum"])
        # The first step takes the gradient whole.
        share = torch.where(moments.steps == 1, 1.0, 1.0 - moments.of(hyper["dampening"]))
        buffer_FP.mul_(momentum)
        self.between()
        buffer_FP.addcmul_(grad_FP, moments.coefficient(share))
        if "nesterov" not in self._used:
            return buffer_FP
        self.between()
        is_ahead = moments.constant("nesterov", lambda: hyper["nesterov"]).bool()
        return torch.where(is_ahead, torch.addcmul(grad_FP, buffer_FP, momentum), buffer_FP)

    def _accelerated_where(self, moments: Moments, grad_FP: Tensor, where: Tensor) -> Tensor:
        """The same in some slots or groups; the others' gradients and buffers as they are."""
        buffer_FP = moments.tensors["momentum_buffer"]
        before = buffer_FP.clone()
        accelerated_FP = torch.where(where, self._accelerated(moments, grad_FP), grad_FP)
        self.between()
        buffer_FP.copy_(torch.where(where, buffer_FP, before))
        return accelerated_FP

    def _has(self, tensor: str, slot: int, group: int, values: Tensor) -> bool:
        del tensor, slot, group, values
        return True  # a buffer stays when momentum goes

    def _to_torch(self, steps: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
        return tensors if steps else {}  # torch's SGD counts none
