"""How long one forward and backward of a bundle takes under an executor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.gradients import clear
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.losses import losses
from hydro_hpc.fusion.rows import tensors_in
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.verify import MakeExecutor
from hydro_hpc.nn.randomness import SlotStreams

ROUNDS: Final = 6  # the first warms up
ENOUGH_S: Final = 0.5  # of rounds: steps this long need fewer of them
LEAST_ROUNDS: Final = 3


def step_times_ms(
    makers: Sequence[MakeExecutor],
    models: Sequence[nn.Module],
    sample: Sample,
    seeds: Sequence[int],
) -> list[float]:
    """The shortest of a few steps of each executor, taken in turns on the same copies of models."""
    with torch.inference_mode(False), torch.enable_grad():
        return _step_times_ms(makers, models, sample, seeds)


def _step_times_ms(
    makers: Sequence[MakeExecutor],
    models: Sequence[nn.Module],
    sample: Sample,
    seeds: Sequence[int],
) -> list[float]:
    state, streams = StackedState([own_copy(m, "trial") for m in models]), SlotStreams(seeds)
    executors = [make(state, streams) for make in makers]
    times: list[list[float]] = [[] for _ in makers]
    begun = time.monotonic()
    for done in range(ROUNDS):
        if done >= LEAST_ROUNDS and time.monotonic() - begun > ENOUGH_S:
            break
        for executor, taken in zip(executors, times, strict=True):
            start = clock_ms()
            streams.begin_call(training=models[0].training)
            output = executor.run(InputForm.of(sample.args, sample.kwargs))
            loss = _sum_of_losses(sample, output)
            if loss.requires_grad:
                loss.backward()
            taken.append(clock_ms() - start)
            for block in state.blocks:
                clear(block, [executor])
    return [min(taken[1:]) for taken in times]


def _sum_of_losses(sample: Sample, output: object) -> Tensor:
    if sample.loss is not None:
        return losses(sample.loss, output, sample.targets).sum()
    return torch.stack([x.sum() for x in tensors_in(output) if x.is_floating_point()]).sum()


def clock_ms() -> float:
    """On the CPU this thread's own time, so that being paused or preempted does not count."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return time.thread_time() * 1e3
    torch.cuda.synchronize()
    return time.perf_counter() * 1e3
