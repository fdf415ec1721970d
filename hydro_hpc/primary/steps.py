"""Where a training step begins: from DeepSpeed's pipeline engine, else from torch's optimizer hook.

The number of a step must be equal on all ranks (the guard's shut steps depend on it), so it comes
from what all ranks do alike: the engine's `train_batch`, or else the optimizers' steps. A step of
several optimizers ends when one of them steps for the second time, so ranks agree even where one
has more optimizers than another, and when optimizers are replaced.

Not covered: ranks that skip optimizer steps each for itself (an unsynchronised GradScaler), a rank
without any optimizer (it counts no step, and opens nothing).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from hydro_hpc.primary.engine_labels import EngineLabels
from hydro_hpc.primary.publisher import Publisher


class StepCounter:
    """Counts steps for one publisher; an engine's count silences the optimizers'."""

    def __init__(self, publisher: Publisher, fails: Callable[[Exception], None]) -> None:
        self.fails = fails
        self._publisher = publisher
        self._step = 0
        self._has_engine = False
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # in this step

    def engine_step(self) -> None:
        """The engine begins a step."""
        self._step = self._step + 1 if self._has_engine else 0
        self._has_engine = True
        self._publisher.begin_step(self._step)

    def optimizer_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped: the first of its step ends the step before."""
        if self._has_engine:
            return
        if not self._step or optimizer in self._stepped:
            self._stepped.clear()
            self._step += 1
            self._publisher.begin_step(self._step)
        self._stepped.add(optimizer)

    def stage(self, stage: int, num_stages: int) -> None:
        self._publisher.set_stage(stage, num_stages)

    def microbatch(self, buffer: int) -> None:
        self._publisher.microbatch = buffer


_counter: StepCounter | None = None
_undo: list[Callable[[], None]] = []


def follow(publisher: Publisher, *, fails: Callable[[Exception], None]) -> None:
    """From now on, steps are told to `publisher`; `fails` is told what it raises."""
    global _counter
    _counter = StepCounter(publisher, fails)
    _undo.append(register_optimizer_step_post_hook(_after_optimizer_step).remove)
    _undo.append(EngineLabels(lambda: _counter).remove)


def mute() -> None:
    """Steps are told to nobody any more. The patches stay: one of them may be running."""
    global _counter
    _counter = None


def unfollow() -> None:
    """Undoes `follow` and every patch of an engine."""
    mute()
    while _undo:
        _undo.pop()()


def _after_optimizer_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    counter = _counter
    if counter is None:
        return
    try:
        counter.optimizer_step(optimizer)
    except Exception as error:
        counter.fails(error)
