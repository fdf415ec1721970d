"""Where a training step begins: from DeepSpeed's pipeline engine, else from torch's optimizer hook.

The number of a step must be equal on all ranks (the guard's shut steps depend on it), so it comes
from what all ranks do alike: the engine's `train_batch`, or the steps of the process's first
optimizer.

DeepSpeed is hooked when it is imported: `PipelineEngine.train_batch` is wrapped, and the values
of its `_INSTRUCTION_MAP` (the execution loop looks methods up there; patching `_exec_*` has no
effect). An engine with a map of its own (DualPipeV) gets its own wrapped copy. No import of
DeepSpeed happens here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from hydro_hpc.primary.publisher import Publisher

ENGINE_MODULE: Final = "deepspeed.runtime.pipe.engine"


class StepCounter:
    """Counts steps for one publisher; an engine's count silences the optimizer's."""

    def __init__(self, publisher: Publisher, fails: Callable[[Exception], None]) -> None:
        self.publisher = publisher
        self._fails = fails
        self._step = 0
        self._has_engine = False
        self._optimizer_id = 0

    def engine_step(self, engine: Any) -> None:
        """A pipeline engine begins a step; whatever is strange about it, it goes on."""
        if not self._has_engine:
            self._has_engine = True
            self._step = 0
        try:
            _label_instructions(type(engine))
            self.publisher.set_stage(engine.stage_id, engine.num_stages)
        except Exception as error:
            self._fails(error)
            return
        self._begin_step()
        self._step += 1

    def optimizer_step(self, optimizer: Optimizer) -> None:
        """Counts the steps of the first optimizer that steps; others belong to the same step."""
        if self._has_engine:
            return
        self._optimizer_id = self._optimizer_id or id(optimizer)
        if id(optimizer) == self._optimizer_id:
            self._step += 1
            self._begin_step()

    def _begin_step(self) -> None:
        try:
            self.publisher.begin_step(self._step)
        except Exception as error:
            self._fails(error)


_counter: StepCounter | None = None
_undo: list[Callable[[], None]] = []


def follow(publisher: Publisher, *, fails: Callable[[Exception], None]) -> None:
    """From now on, steps are told to `publisher`; `fails` is told what it raises."""
    global _counter
    _counter = StepCounter(publisher, fails)
    hook = register_optimizer_step_post_hook(_after_optimizer_step)
    _undo.append(hook.remove)
    engine = sys.modules.get(ENGINE_MODULE)
    if engine is not None:
        hook_engine(engine)
    else:
        finder = _EngineFinder()
        sys.meta_path.insert(0, finder)
        _undo.append(lambda: sys.meta_path.remove(finder))


def mute() -> None:
    """Steps are told to nobody any more. The patches stay: one of them may be running."""
    global _counter
    _counter = None


def unfollow() -> None:
    """Undoes `follow` and every patch of an engine."""
    global _counter
    _counter = None
    while _undo:
        _undo.pop()()


def _after_optimizer_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    if _counter is not None:
        _counter.optimizer_step(optimizer)


def hook_engine(module: ModuleType) -> None:
    """Wraps `train_batch` and the instruction map of DeepSpeed's PipelineEngine."""
    engine = module.PipelineEngine
    original = engine.train_batch

    @functools.wraps(original)
    def train_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _counter is not None:
            _counter.engine_step(self)
        return original(self, *args, **kwargs)

    engine.train_batch = train_batch
    _undo.append(lambda: setattr(engine, "train_batch", original))


def _label_instructions(engine_class: type) -> None:
    """Wraps the map's values once per class, so that a wait knows its microbatch."""
    current: dict[type, Callable[..., Any]] = engine_class._INSTRUCTION_MAP  # type: ignore[attr-defined]
    if isinstance(current, _LabelledMap):
        return
    setattr(engine_class, "_INSTRUCTION_MAP", _LabelledMap(current))  # noqa: B010
    _undo.append(lambda: setattr(engine_class, "_INSTRUCTION_MAP", current))


class _LabelledMap(dict[type, Callable[..., Any]]):
    """An instruction map whose functions tell the publisher which microbatch's buffer they work
    on.
    """

    def __init__(self, original: dict[type, Callable[..., Any]]) -> None:
        super().__init__({kind: _labelled(function) for kind, function in original.items()})


def _labelled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(engine: Any, *args: Any, **kwargs: Any) -> Any:
        if _counter is not None:
            _counter.publisher.microbatch = kwargs.get("buffer_id", -1)
        return function(engine, *args, **kwargs)

    return wrapped


class _EngineFinder(MetaPathFinder):
    """Finds DeepSpeed's engine module the ordinary way, and hooks it once it was executed."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ENGINE_MODULE:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _HookingLoader(spec.loader)
                return spec
        return None


class _HookingLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        hook_engine(module)
