"""Adam and AdamW, per slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.optim.hyperparameters import Pair, PerSlot, split_betas
from hydro_hpc.optim.optimizer import Moments, SlotOptimizer


class Adam(SlotOptimizer):
    """Equals `torch.optim.Adam` in every slot. Each setting is one number or one per slot;
    `betas` is one pair or one per slot."""

    TENSORS: ClassVar = ("exp_avg", "exp_avg_sq")
    TORCH: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam
    RANGES: ClassVar = {
        "lr": (0.0, float("inf")),
        "beta1": (0.0, 1.0),
        "beta2": (0.0, 1.0),
        "eps": (0.0, float("inf")),
        "weight_decay": (0.0, float("inf")),
    }

    def __init__(
        self,
        bundle: Bundle,
        *,
        lr: PerSlot = 1e-3,
        betas: Pair | Sequence[Pair] = (0.9, 0.999),
        eps: PerSlot = 1e-8,
        weight_decay: PerSlot = 0.0,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(bundle, settings)

    def _per_slot(self, settings: Mapping[str, Any], slots: int) -> dict[str, Tensor]:
        numbers = {name: value for name, value in settings.items() if name != "betas"}
        hyper = super()._per_slot(numbers, slots)
        if "betas" in settings:
            hyper["beta1"], hyper["beta2"] = split_betas(settings["betas"], slots)
        return hyper

    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        values_FP, constant, hyper = moments.block.values_FP, moments.constant, self._hyper
        mean_FP, square_FP = moments.tensors["exp_avg"], moments.tensors["exp_avg_sq"]
        self._decay(moments, grad_FP)
        mean_FP.lerp_(grad_FP, constant("1 - beta1", lambda: 1.0 - hyper["beta1"]))
        self.between()
        grad_FP.mul_(grad_FP)
        square_FP.lerp_(grad_FP, constant("1 - beta2", lambda: 1.0 - hyper["beta2"]))
        self.between()
        # lr / c1 * m / (sqrt(v) / sqrt(c2) + eps), with sqrt(c2) taken out of the fraction
        steps = moments.steps
        root = (1.0 - hyper["beta2"][:, None] ** steps).sqrt_()
        size = hyper["lr"][:, None] * root / (1.0 - hyper["beta1"][:, None] ** steps)
        self.between()
        update_FP = torch.sqrt(square_FP, out=grad_FP)
        update_FP.add_(moments.coefficient(hyper["eps"][:, None] * root))
        self.between()
        torch.div(mean_FP, update_FP, out=update_FP)
        self.between()
        values_FP.addcmul_(update_FP, moments.coefficient(-size))

    def _decay(self, moments: Moments, grad_FP: Tensor) -> None:
        """Weight decay as part of the gradient."""
        decay = self._hyper["weight_decay"]
        if bool(decay.any()):
            grad_FP.addcmul_(moments.block.values_FP, moments.constant("decay", lambda: decay))

    def _torch_settings(self, slot: int) -> dict[str, Any]:
        settings = super()._torch_settings(slot)
        betas = (settings.pop("beta1"), settings.pop("beta2"))
        return {**settings, "betas": betas}

    def _from_torch_group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}


class AdamW(Adam):
    """Equals `torch.optim.AdamW` in every slot: weight decay apart from the gradient."""

    TORCH: ClassVar[type[torch.optim.Optimizer]] = torch.optim.AdamW

    def __init__(
        self,
        bundle: Bundle,
        *,
        lr: PerSlot = 1e-3,
        betas: Pair | Sequence[Pair] = (0.9, 0.999),
        eps: PerSlot = 1e-8,
        weight_decay: PerSlot = 1e-2,
    ) -> None:
        super().__init__(bundle, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _decay(self, moments: Moments, grad_FP: Tensor) -> None:
        del grad_FP
        hyper = self._hyper
        if bool(hyper["weight_decay"].any()):
            factor = moments.constant("kept", lambda: 1.0 - hyper["lr"] * hyper["weight_decay"])
            moments.block.values_FP.mul_(factor)
