"""Adam and AdamW, per slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.gradients import BlockGradient
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.optim.adam_rows import LARGEST, STATE, Rows, kernel_for
from hydro_hpc.optim.groups import ParameterGroup
from hydro_hpc.optim.hyperparameters import Pair, PerSlot, split_betas
from hydro_hpc.optim.moments import Moments
from hydro_hpc.optim.optimizer import SlotOptimizer
from hydro_hpc.surrogate.rules import Rules


class Adam(SlotOptimizer):
    """Equals `torch.optim.Adam` in every slot. Each setting is one number or one per slot;
    `betas` is one pair or one per slot, `amsgrad` and `maximize` one truth value or one per slot.
    """

    TENSORS: ClassVar = STATE
    OPTIONAL: ClassVar = {LARGEST: "amsgrad"}
    FLAGS: ClassVar = frozenset({"amsgrad", "maximize"})
    TORCH: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam
    KERNEL: ClassVar = "_fused_adam_"
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
        amsgrad: PerSlot = False,
        maximize: PerSlot = False,
        groups: Sequence[ParameterGroup] = (),
        rules: Rules | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        self._rows: dict[Moments, Rows] = {}
        super().__init__(bundle, settings, groups, rules)

    def _per_slot(self, settings: Mapping[str, Any], slots: int) -> dict[str, Tensor]:
        numbers = {name: value for name, value in settings.items() if name != "betas"}
        hyper = super()._per_slot(numbers, slots)
        if "betas" in settings:
            hyper["beta1"], hyper["beta2"] = split_betas(settings["betas"], slots)
        return hyper

    def _torch_settings(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        settings = super()._torch_settings(numbers)
        betas = (settings.pop("beta1"), settings.pop("beta2"))
        return {**settings, "betas": betas}

    def _adopt(self, hyper: dict[str, Tensor]) -> None:
        super()._adopt(hyper)
        self._numbers_now: list[list[dict[str, Any]]] = []

    def take_slots(self, new: NewSlots) -> None:
        self._rows = {}
        super().take_slots(new)

    def _step_block(self, moments: Moments, gradient: BlockGradient) -> None:
        kernel = kernel_for(moments, self.KERNEL)
        if kernel is None:
            super()._step_block(moments, gradient)
            return
        rows = self._rows.get(moments)
        if rows is None or rows.num_tensors != len(moments.tensors):
            rows = self._rows[moments] = Rows(moments, kernel)
        self._numbers_now = self._numbers_now or self._numbers()
        rows.step(gradient, self.bundle.active, self._numbers_now, self.between)

    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        values_FP, constant, hyper = moments.block.values_FP, moments.constant, self._hyper
        mean_FP, square_FP = moments.tensors["exp_avg"], moments.tensors["exp_avg_sq"]
        self._decay(moments, grad_FP)
        mean_FP.lerp_(grad_FP, constant("1 - beta1", lambda: 1.0 - hyper["beta1"]))
        self.between()
        grad_FP.mul_(grad_FP)
        square_FP.lerp_(grad_FP, constant("1 - beta2", lambda: 1.0 - hyper["beta2"]))
        self.between()
        if "amsgrad" in self._used:
            square_FP = self._largest(moments, square_FP)
            self.between()
        # lr / c1 * m / (sqrt(v) / sqrt(c2) + eps), with sqrt(c2) taken out of the fraction
        of, steps = moments.of, moments.steps
        root = (1.0 - of(hyper["beta2"]) ** steps).sqrt_()
        size = of(hyper["lr"]) * root / (1.0 - of(hyper["beta1"]) ** steps)
        self.between()
        update_FP = torch.sqrt(square_FP, out=grad_FP)
        update_FP.add_(moments.coefficient(of(hyper["eps"]) * root))
        self.between()
        torch.div(mean_FP, update_FP, out=update_FP)
        self.between()
        values_FP.addcmul_(update_FP, moments.coefficient(size), value=-1)

    def _largest(self, moments: Moments, square_FP: Tensor) -> Tensor:
        """Where AMSGrad is on, the largest mean square so far; elsewhere the present one."""
        largest_FP = moments.tensors["max_exp_avg_sq"]
        is_on = moments.constant("amsgrad", lambda: self._hyper["amsgrad"]).bool()
        found_FP = torch.where(is_on, torch.maximum(largest_FP, square_FP), square_FP)
        self.between()
        largest_FP.copy_(torch.where(is_on, found_FP, largest_FP))
        return found_FP

    def _decay(self, moments: Moments, grad_FP: Tensor) -> None:
        self._add_decay(moments, grad_FP)


class AdamW(Adam):
    """Equals `torch.optim.AdamW` in every slot: weight decay apart from the gradient."""

    TORCH: ClassVar[type[torch.optim.Optimizer]] = torch.optim.AdamW
    KERNEL: ClassVar = "_fused_adamw_"

    def __init__(
        self,
        bundle: Bundle,
        *,
        lr: PerSlot = 1e-3,
        betas: Pair | Sequence[Pair] = (0.9, 0.999),
        eps: PerSlot = 1e-8,
        weight_decay: PerSlot = 1e-2,
        amsgrad: PerSlot = False,
        maximize: PerSlot = False,
        groups: Sequence[ParameterGroup] = (),
        rules: Rules | None = None,
    ) -> None:
        super().__init__(
            bundle,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            groups=groups,
            rules=rules,
        )

    def _decay(self, moments: Moments, grad_FP: Tensor) -> None:
        del grad_FP
        hyper = self._hyper
        if "weight_decay" in self._used:
            factor = moments.constant("kept", lambda: 1.0 - hyper["lr"] * hyper["weight_decay"])
            moments.block.values_FP.mul_(factor)
