"""Adam on the CPU: one slot after the other, each by torch's fused kernel.

Three times as fast as passes over all slots where a block does not fit the cache (16 slots of 30000
parameters), and an idle slot costs nothing. What is done to a slot depends on that slot alone, so
that its numbers are the same to the last bit beside any neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.fusion.gradients import BlockGradient
from hydro_hpc.optim.moments import Moments

Kernel = Callable[..., None]
STATE: Final = ("exp_avg", "exp_avg_sq")
LARGEST: Final = "max_exp_avg_sq"


def kernel_for(moments: Moments, name: str) -> Kernel | None:
    """torch's fused kernel, if there is one for this block."""
    values_FP = moments.block.values_FP
    if values_FP.device.type != "cpu" or not values_FP.is_floating_point():
        return None
    found: Kernel | None = getattr(torch, name, None)
    return found


class Rows:
    """A block's state as rows, each the memory of one slot."""

    def __init__(self, moments: Moments, kernel: Kernel) -> None:
        self.moments, self.kernel = moments, kernel
        kept = [moments.tensors.get(name) for name in (*STATE, LARGEST)]
        self.num_tensors = len(moments.tensors)
        columns = [[] if t is None else t.unbind() for t in (moments.block.values_FP, *kept)]
        # [value], [mean], [square], [largest square] of each slot, as the kernel takes them
        self._lists = [
            [[rows[slot]] if rows else [] for rows in columns]
            for slot in range(moments.block.values_FP.size(0))
        ]

    def step(
        self,
        gradient: BlockGradient,
        active: Sequence[bool],
        settings: Sequence[Sequence[Mapping[str, Any]]],
        between: Callable[[], None],
    ) -> None:
        """One step of the active slots where they have a gradient; `settings[slot][group]`."""
        moments = self.moments
        present = None if gradient.present is None else gradient.present.tolist()
        steps = (moments.steps_FN[:, 0] + 1).float().unbind()
        whole = []
        for slot, grad_P in enumerate(gradient.values.unbind()):
            if not active[slot]:
                continue
            if (present is None or all(present[slot])) and self._is_one(slot):
                group = moments.groups[0]
                value, mean, square, largest = self._lists[slot]
                own = settings[slot][group]
                largest = largest if own["amsgrad"] else []
                self.kernel(value, [grad_P], mean, square, largest, [steps[slot]], **own)
                whole.append(slot)
            else:
                num = len(moments.groups)
                is_there = [True] * num if present is None else present[slot]
                is_there = is_there * num if len(is_there) == 1 else is_there
                self._step_parts(slot, grad_P, is_there, settings[slot])
            between()
        if len(whole) == len(active):
            moments.steps_FN += 1
        else:
            moments.steps_FN[whole] += 1
        if len(whole) < sum(active):
            moments.count_even()

    def _is_one(self, slot: int) -> bool:
        """Says whether all parameters of the slot make the same step."""
        moments = self.moments
        is_even = moments.is_even or len(set(moments.steps_FN[slot].tolist())) == 1
        return moments.is_one_group and is_even

    def _step_parts(
        self,
        slot: int,
        grad_P: Tensor,
        present: Sequence[bool],
        settings: Sequence[Mapping[str, Any]],
    ) -> None:
        """The same for parameters that do not all make the same step, each by itself."""
        moments = self.moments
        for group in sorted(set(moments.groups)):
            own = [n for n, g in enumerate(moments.groups) if g == group and present[n]]
            if own:
                moments.steps_FN[slot, own] += 1
                columns = [moments.block.columns[n] for n in own]
                parts = [slice(column.start, column.stop) for column in columns]
                steps = list(moments.steps_FN[slot, own].float().unbind())
                value, mean, square, largest = [
                    [row[0][part] for part in parts] if row else [] for row in self._lists[slot]
                ]
                largest = largest if settings[group]["amsgrad"] else []
                grads = [grad_P[part] for part in parts]
                self.kernel(value, grads, mean, square, largest, steps, **settings[group])
