"""How long each module of a grouped bundle takes, for all slots at once and once per slot."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.grouped import GroupedExecutor
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.report import PartTime
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.timing import clock_ms
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.randomness import SlotStreams

ROUNDS: Final = 4  # the first warms up


def time_parts(executor: GroupedExecutor, sample: Sample) -> list[PartTime]:
    """The times of all fused modules with parameters, taken on what they get in one forward of the
    sample. Modules of one class with equal shapes in and within are timed once. The executor's
    gradients, buffers and streams are used up: give one that is made for this.
    """
    given = _inputs_of_parts(executor, sample)
    known: dict[Hashable, tuple[float, ...]] = {}
    times = []
    for path, args in given.items():
        fused = executor.parts.fused[path]
        key = _likeness(fused, args)
        if key not in known:
            per_slot = executor.parts.per_slot(path)
            known[key] = tuple(_time_ms(part, args, executor.streams) for part in (fused, per_slot))
        grouped_ms, per_slot_ms = known[key]
        kind = type(executor.state.slot_models[0].get_submodule(path)).__name__
        times.append(PartTime(path=path, kind=kind, grouped_ms=grouped_ms, per_slot_ms=per_slot_ms))
    return times


def _inputs_of_parts(executor: GroupedExecutor, sample: Sample) -> dict[str, tuple[Any, ...]]:
    """What each fused module with parameters is called with first, if by position alone."""
    given: dict[str, tuple[Any, ...]] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            given.setdefault(path, pytree.tree_map_only(Tensor, _same_layout, args))

        return hook

    trained = {p: m for p, m in executor.parts.fused.items() if list(m.parameters())}
    handles = [m.register_forward_pre_hook(note(path)) for path, m in trained.items()]
    executor.streams.begin_call(training=executor.state.slot_models[0].training)
    own = sample.copy()
    executor.run(InputForm.of(own.args, own.kwargs))
    for handle in handles:
        handle.remove()
    return given


def _same_layout(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _likeness(fused: Fused, args: tuple[Any, ...]) -> Hashable:
    """Equal for parts that take the same time."""
    own = tuple(p.shape for p in fused.parameters())
    facts = tuple(
        (x.dtype, x.shape, x.stride(), x.requires_grad) if isinstance(x, Tensor) else repr(x)
        for x in pytree.tree_leaves(args)
    )
    return type(fused), str(fused.settings), own, facts


def _time_ms(call: nn.Module, args: tuple[Any, ...], streams: SlotStreams) -> float:
    """The shortest of a few."""
    taken = []
    with streams.owned():
        for _ in range(ROUNDS):
            start = clock_ms()
            outputs = [x for x in pytree.tree_leaves(call(*args)) if isinstance(x, Tensor)]
            wanted = [x for x in outputs if x.requires_grad]
            if wanted:
                torch.autograd.backward(wanted, [torch.ones_like(x) for x in wanted])
            taken.append(clock_ms() - start)
    return min(taken[1:])
