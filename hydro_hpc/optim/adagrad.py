"""Adagrad, per slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.optim.groups import ParameterGroup
from hydro_hpc.optim.hyperparameters import PerSlot
from hydro_hpc.optim.moments import Moments
from hydro_hpc.optim.optimizer import SlotOptimizer
from hydro_hpc.surrogate.rules import Rules


class Adagrad(SlotOptimizer):
    """Equals `torch.optim.Adagrad` in every slot. Each setting is one number or one per slot,
    `maximize` one truth value or one per slot. A group's own `initial_accumulator_value` counts,
    which torch ignores."""

    TENSORS: ClassVar = ("sum",)
    TORCH: ClassVar = torch.optim.Adagrad
    RANGES: ClassVar = {
        "lr": (0.0, float("inf")),
        "lr_decay": (0.0, float("inf")),
        "weight_decay": (0.0, float("inf")),
        "initial_accumulator_value": (0.0, float("inf")),
        "eps": (0.0, float("inf")),
    }

    def __init__(
        self,
        bundle: Bundle,
        *,
        lr: PerSlot = 1e-2,
        lr_decay: PerSlot = 0.0,
        weight_decay: PerSlot = 0.0,
        initial_accumulator_value: PerSlot = 0.0,
        eps: PerSlot = 1e-10,
        maximize: PerSlot = False,
        groups: Sequence[ParameterGroup] = (),
        rules: Rules | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(bundle, settings, groups, rules)

    def _begin(self, slot: int) -> None:
        super()._begin(slot)
        for moments in self._moments:
            initial = moments.of(self._hyper["initial_accumulator_value"])
            kept_FP = moments.tensors["sum"]
            kept_FP[slot] = moments.coefficient(initial)[slot] * _unit(kept_FP)

    def _update(self, moments: Moments, grad_FP: Tensor) -> None:
        of, hyper = moments.of, self._hyper
        self._add_decay(moments, grad_FP)
        sum_FP = moments.tensors["sum"]
        sum_FP.addcmul_(grad_FP, grad_FP)
        self.between()
        root_FP = sum_FP.sqrt().add_(moments.constant("eps", lambda: hyper["eps"]))
        self.between()
        size = of(hyper["lr"]) / (1.0 + (moments.steps - 1) * of(hyper["lr_decay"]))
        grad_FP.mul_(moments.coefficient(-size))
        self.between()
        moments.block.values_FP.addcdiv_(grad_FP, root_FP)

    def _to_torch(self, steps: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"step": torch.tensor(float(steps)), **tensors}  # from the beginning on

    def _frozen_states(self, slot: int) -> Iterable[tuple[str, dict[str, Any]]]:
        initial = self._hyper["initial_accumulator_value"][slot].tolist()
        parameters = dict(self.bundle.state.slot_models[slot].named_parameters())
        for number, group in enumerate(self._groups):
            for name in group.names:
                if not parameters[name].requires_grad:
                    like = parameters[name].detach()
                    yield (
                        name,
                        self._to_torch(
                            0, {"sum": torch.full_like(like, initial[number] * _unit(like))}
                        ),
                    )


def _unit(like: Tensor) -> complex:
    """What torch begins a sum of such parameters with, of a complex one's two parts each."""
    return 1 + 1j if like.is_complex() else 1.0
