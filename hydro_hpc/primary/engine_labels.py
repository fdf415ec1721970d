"""What pipeline engines say about themselves: where a step begins, this rank's stage, microbatches.

An engine is hooked when its module is imported; nothing here imports one. What is relied on in
DeepSpeed is tested on the source of its releases (tests/engines/test_deepspeed_releases.py).

DeepSpeed: `PipelineEngine.train_batch` is wrapped, and the values of `_INSTRUCTION_MAP` (the
execution loop looks methods up there; patching `_exec_*` has no effect). An engine with a map of
its own (DualPipeV) gets its own wrapped copy.
torch.distributed.pipelining: a schedule's `step` tells the stage alone. It is no step of training:
with gradient accumulation it runs several times in one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Protocol

from hydro_hpc.primary.late_import import when_imported

DEEPSPEED: Final = "deepspeed.runtime.pipe.engine"
TORCH_PIPELINING: Final = "torch.distributed.pipelining.schedules"
TORCH_SCHEDULES: Final = ("PipelineScheduleSingle", "PipelineScheduleMulti")


class Listener(Protocol):
    """Who is told. What its methods raise, `fails` is told."""

    def engine_step(self) -> None: ...
    def stage(self, stage: int, num_stages: int) -> None: ...
    def microbatch(self, buffer: int) -> None: ...
    def fails(self, error: Exception) -> None: ...


class EngineLabels:
    """The patches of the engines that this process uses, until `remove`."""

    def __init__(self, listener: Callable[[], Listener | None]) -> None:
        self._listener = listener  # None: nobody listens
        self._undo: list[Callable[[], None]] = []
        for name, hook in (
            (DEEPSPEED, self._hook_deepspeed),
            (TORCH_PIPELINING, self._hook_torch_pipelining),
        ):
            self._undo.append(when_imported(name, hook))

    def remove(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _hook_deepspeed(self, module: ModuleType) -> None:
        self._before(module.PipelineEngine, "train_batch", self._tell_deepspeed)

    def _hook_torch_pipelining(self, module: ModuleType) -> None:
        for name in TORCH_SCHEDULES:
            self._before(getattr(module, name), "step", _tell_torch_pipelining)

    def _tell_deepspeed(self, listener: Listener, engine: Any) -> None:
        self._label_instructions(type(engine))
        listener.stage(engine.stage_id, engine.num_stages)
        listener.engine_step()

    def _before(self, owner: type, name: str, tell: Callable[[Listener, Any], None]) -> None:
        """Has `tell` called before each call of a method; whatever it raises, that goes on."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(called: Any, *args: Any, **kwargs: Any) -> Any:
            listener = self._listener()
            if listener is not None:
                try:
                    tell(listener, called)
                except Exception as error:
                    listener.fails(error)
            return original(called, *args, **kwargs)

        setattr(owner, name, wrapped)
        self._undo.append(lambda: setattr(owner, name, original))

    def _label_instructions(self, engine_class: type) -> None:
        """Wraps the map's values once per class, so that a wait knows its microbatch."""
        current: dict[type, Callable[..., Any]] = engine_class._INSTRUCTION_MAP  # type: ignore[attr-defined]
        if isinstance(current, _LabelledMap):
            return
        labelled = _LabelledMap({kind: self._label(value) for kind, value in current.items()})
        setattr(engine_class, "_INSTRUCTION_MAP", labelled)  # noqa: B010
        self._undo.append(lambda: setattr(engine_class, "_INSTRUCTION_MAP", current))

    def _label(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(engine: Any, *args: Any, **kwargs: Any) -> Any:
            listener = self._listener()
            if listener is not None:
                listener.microbatch(kwargs.get("buffer_id", -1))
            return function(engine, *args, **kwargs)

        return wrapped


class _LabelledMap(dict[type, Callable[..., Any]]):
    """An instruction map whose functions tell first which microbatch's buffer they work on."""


def _tell_torch_pipelining(listener: Listener, schedule: Any) -> None:
    stage = schedule._stage if hasattr(schedule, "_stage") else schedule._stages[0]
    listener.stage(stage.group_rank, stage.group_size)
