"""Cuts a training step into units of about 200 us, each admitted by the gate as a whole.

A *point* is a place in the step where a pause is possible: before a module's forward or backward,
before the optimizer step. The same step passes the same points in the same order, so a few steps
teach how long the work between two points takes. Then points are grouped: the first point of a
group asks the gate for the time of all, the others cost one list look-up; modules whose points
all fell into groups lose their hooks altogether (a hook per module would cost more than a bubble
gives).

Not covered: a step whose points differ from one time to the next; then every point asks for itself.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import nn

from hydro_hpc.nn.fused import Fused

STEPS_TO_LEARN: Final = 6
FIRST_NEED_NS: Final = 1_500_000  # the most that is asked while lengths are learned
HEADROOM: Final = 1.1  # over the median, for what a unit may take longer


class Admits(Protocol):
    """What a meter asks: `LaneGate`, or a fake."""

    def admit(self, need_ns: int) -> None: ...


def group_needs(lengths_ns: list[int], unit_ns: int) -> list[int]:
    """Returns, for each point, what to ask the gate for: a group's whole length at its first
    point, 0 at the others. A group ends before it would pass `unit_ns`; a longer single piece is
    a group."""
    needs = [0] * len(lengths_ns)
    first, total = 0, 0
    for position, length_ns in enumerate(lengths_ns):
        if position > first and total + length_ns > unit_ns:
            needs[first] = max(total, 1)
            first, total = position, 0
        total += length_ns
    if lengths_ns:
        needs[first] = max(total, 1)
    return needs


class Meter:
    """The points of one kind of step of one bundle (training and evaluation have a meter each)."""

    def __init__(
        self,
        gate: Admits,
        *,
        unit_ns: int,
        device_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._gate = gate
        self._unit_ns = unit_ns
        self._device_ns = device_ns
        self._needs: list[int] = []  # empty while learning
        self._lengths: list[list[int]] = []
        self._keys: list[str] = []
        self._position = 0
        self._is_active = False  # in a step of this meter's kind; hooks are silent outside
        self._num_steps = 0
        self._last_ns: int | None = None  # device time at the last point of this step
        self._hooked: dict[str, list[torch.utils.hooks.RemovableHandle]] = {}
        self._halves: dict[str, Fused] = {}  # modules that call in the middle of their backward

    def hook(self, modules: dict[str, nn.Module], *, has_backward: bool = True) -> None:
        """Makes the forward and the backward of each module a point, and where a fused module's
        backward may pause in its middle.
        """
        for key, module in modules.items():

            def point(*_: object, key: str = key) -> None:
                self.point(key)

            def after_forward(
                _module: nn.Module,
                _inputs: object,
                output: object,
                point: Callable[..., None] = point,
            ) -> None:
                if isinstance(output, torch.Tensor) and output.requires_grad:
                    output.register_hook(point)

            self._hooked[key] = [module.register_forward_pre_hook(point)]
            if not has_backward:
                continue
            self._hooked[key].append(module.register_forward_hook(after_forward))
            if isinstance(module, Fused):
                self._halves[f"{key} middle"] = module
                module.between = functools.partial(self.point, f"{key} middle")

    def begin(self) -> None:
        """Begins a step; the first point of all."""
        self._is_active = True
        self._position = 0
        self._last_ns = None
        self.point("begin")

    def point(self, key: str) -> None:
        """A place where this step may pause; `key` names the module whose hook called."""
        if not self._is_active:
            return
        position = self._position
        self._position = position + 1
        if self._needs:
            if position >= len(self._needs):
                self._gate.admit(self._unit_ns)
            elif need_ns := self._needs[position]:
                self._gate.admit(need_ns)
            return
        self._learn(position, key)

    def end(self) -> None:
        """Ends a step; after enough of them, groups the points."""
        self._is_active = False
        if self._needs:
            return
        self._measure(self._position)
        self._num_steps += 1
        if self._num_steps < STEPS_TO_LEARN:
            return
        lengths_ns = [int(HEADROOM * sorted(seen)[len(seen) // 2]) for seen in self._lengths]
        self._needs = group_needs(lengths_ns, self._unit_ns)
        self._unhook_coalesced()

    def abandon(self) -> None:
        """Ends a step that will not come to its end; nothing is learned from it."""
        self._is_active = False
        if not self._needs:
            self._lengths, self._keys, self._num_steps = [], [], 0

    def close(self) -> None:
        """Removes all hooks."""
        for handles in self._hooked.values():
            for handle in handles:
                handle.remove()
        self._hooked.clear()
        for module in self._halves.values():
            module.between = None
        self._halves.clear()

    def _learn(self, position: int, key: str) -> None:
        self._measure(position)
        if position == len(self._keys):
            self._keys.append(key)
            self._lengths.append([])
        seen = self._lengths[position]
        self._gate.admit(min([*seen, FIRST_NEED_NS]))
        self._last_ns = self._device_ns()

    def _measure(self, position: int) -> None:
        """Books the time since the last point, if there was one in this step."""
        if position and self._last_ns is not None:
            self._lengths[position - 1].append(self._device_ns() - self._last_ns)

    def _unhook_coalesced(self) -> None:
        """Drops hooks that would never ask; the positions change, so the rest is learned anew."""
        asking = {key for key, need in zip(self._keys, self._needs, strict=True) if need}
        dropped = [key for key in self._hooked if key not in asking]
        for key in dropped:
            for handle in self._hooked.pop(key):
                handle.remove()
        whole = [key for key in self._halves if key not in asking]
        for key in whole:
            self._halves.pop(key).between = None
        if dropped or whole:
            self._needs, self._lengths, self._keys = [], [], []
            self._num_steps = 0
