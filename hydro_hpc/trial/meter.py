"""Cuts a training step into units of about 100 us, each admitted by the gate as a whole.

A *point* is a place in the step where a pause is possible: before a module's forward or backward,
before the optimizer step. The same step passes the same points in the same order, so a few steps
teach how long the work between two points takes. Then points are grouped: the first point of a
group asks the gate for the time of all, the others do nothing; modules whose points
all fell into groups lose their hooks altogether (a hook per module would cost more than a bubble
gives).

Not covered: a step whose points differ from one time to the next; then every point asks for itself.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from torch import nn

from hydro_hpc.fusion.vmap_rules import before_backward
from hydro_hpc.nn.fused import Fused
from hydro_hpc.trial.points import make_points

STEPS_TO_LEARN: Final = 6
FIRST_NEED_NS: Final = 1_500_000  # the most that is asked while lengths are learned
HEADROOM: Final = 1.1  # over the median, for what a unit may take longer


class Admits(Protocol):
    """What a meter asks: `LaneGate`, or a fake."""

    @property
    def admit(self) -> Callable[[int], None]: ...


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
        self._num_steps = 0
        self._last_ns: int | None = None  # device time at the last point of this step
        self._points = make_points(admit=gate.admit, learn=self._learn, rest_ns=unit_ns)
        self._hooked: dict[str, list[Callable[[], None]]] = {}  # what undoes it, by point

    def hook(self, modules: Mapping[str, nn.Module], *, has_backward: bool = True) -> None:
        """Makes the forward and the backward of each module a point, and where a fused module's
        backward may pause in its middle; of these modules instead of the last ones.
        """
        self.close()
        self._forget()
        for key, module in modules.items():
            self._hooked[key] = []
            if isinstance(module, Fused):
                self._hook_fused(module, key, has_backward=has_backward)
            else:
                self._hook_any(module, key, has_backward=has_backward)

    def _hook_any(self, module: nn.Module, key: str, *, has_backward: bool) -> None:
        point = self._points.named(key)
        undo = self._hooked[key]
        undo.append(module.register_forward_pre_hook(point).remove)
        if has_backward:
            after_forward = _BackwardPoint(point)
            undo.append(module.register_forward_hook(after_forward).remove)

    def _hook_fused(self, module: Fused, key: str, *, has_backward: bool) -> None:
        point = self._points.named(key)
        module.entries.append(point)
        self._hooked[key].append(functools.partial(module.entries.remove, point))
        if not has_backward:
            return
        for name in ("before", "between") if module.has_own_backward else ("before",):
            setattr(module, name, self._points.named(f"{key} {name}"))
            self._hooked[f"{key} {name}"] = [functools.partial(setattr, module, name, None)]

    def begin(self) -> None:
        """Begins a step; the first point of all."""
        self._position = 0
        self._last_ns = None
        self._points.begin()
        self.point("begin")

    def point(self, key: str) -> None:
        """A place where this step may pause; `key` names it."""
        self._points.pass_(key)

    def named(self, key: str) -> Callable[..., None]:
        """Returns the same place as a function of whatever a hook gets."""
        return self._points.named(key)

    def end(self) -> None:
        """Ends a step; after enough of them, groups the points."""
        self._points.end()
        if self._needs:
            return
        self._measure(self._position)
        self._num_steps += 1
        if self._num_steps < STEPS_TO_LEARN:
            return
        lengths_ns = [int(HEADROOM * sorted(seen)[len(seen) // 2]) for seen in self._lengths]
        self._needs = group_needs(lengths_ns, self._unit_ns)
        self._points.group(self._needs)
        self._unhook_coalesced()

    def abandon(self) -> None:
        """Ends a step that will not come to its end; nothing is learned from it."""
        self._points.end()
        if not self._needs:
            self._forget()

    def close(self) -> None:
        """Removes all hooks."""
        for key in list(self._hooked):
            self._unhook(key)

    def _learn(self, key: str) -> None:
        position = self._position
        self._position = position + 1
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
            self._unhook(key)
        if not set(dropped).isdisjoint(self._keys):
            self._forget()

    def _unhook(self, key: str) -> None:
        for undo in self._hooked.pop(key):
            undo()

    def _forget(self) -> None:
        self._needs, self._lengths, self._keys = [], [], []
        self._points.group([])
        self._num_steps = 0


class _BackwardPoint:
    """As a forward hook, passes `point` right before the backward of what made the output."""

    is_pause_point = True  # tells our hooks from a user's

    def __init__(self, point: Callable[..., None]) -> None:
        self._point = point

    def __call__(self, _module: nn.Module, _inputs: object, output: object) -> object:
        return before_backward(output, self._point)

    def __deepcopy__(self, memo: object) -> _BackwardPoint:
        return self
