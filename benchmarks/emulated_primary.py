"""One real stage of a long pipeline. Its peers are emulated: processes that follow the same
schedule and send real messages, but sleep for as long as the real stage computes.

1F1B over gloo, one process per stage. Rank `--real` trains a stage and lends its device; the others
need no core, so that a machine of two cores holds a pipeline of any length.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.pipelining_primary import LENGTH, MICROBATCH, WIDTH, build_stage
from hydro_hpc.schedules.generators import one_f_one_b
from hydro_hpc.schedules.schedule import Action, Kind

TIMED_STEPS: Final = 20  # before the emulated stages know how long to sleep


class RealStage:
    """Trains a stage: a microbatch's output is kept until its gradient comes."""

    def __init__(self, rank: int) -> None:
        self._module = build_stage(rank)
        self._optimizer = torch.optim.Adam(self._module.parameters(), lr=1e-3)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, microbatch: int, received: Tensor) -> Tensor:
        x = received.clone().requires_grad_()
        output: Tensor = self._module(x)
        self._kept[microbatch] = x, output
        return output.detach()

    def backward(self, microbatch: int, gradient: Tensor) -> Tensor:
        x, output = self._kept.pop(microbatch)
        output.backward(gradient)
        assert x.grad is not None
        return x.grad

    def end_step(self) -> None:
        nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


class EmulatedStage:
    """Sleeps as long as it was told."""

    def __init__(self, forward_s: float, backward_s: float) -> None:
        self._forward_s, self._backward_s = forward_s, backward_s

    def forward(self, _microbatch: int, received: Tensor) -> Tensor:
        time.sleep(self._forward_s)
        return received

    def backward(self, _microbatch: int, gradient: Tensor) -> Tensor:
        time.sleep(self._backward_s)
        return gradient

    def end_step(self) -> None:
        pass


def measure(stage: RealStage) -> tuple[float, float]:
    """Returns how long the stage's forward and backward of a microbatch take, in seconds."""
    x = torch.randn(MICROBATCH, LENGTH, WIDTH)
    forward_s, backward_s = [], []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        output = stage.forward(0, x)
        middle = time.perf_counter()
        stage.backward(0, output)
        forward_s.append(middle - started)
        backward_s.append(time.perf_counter() - middle)
        stage.end_step()
    return statistics.median(forward_s), statistics.median(backward_s)


class Rank:
    """Follows its part of the schedule with real messages."""

    def __init__(self, stage: RealStage | EmulatedStage, actions: tuple[Action, ...]) -> None:
        self._stage = stage
        self._actions = actions
        self._rank, self._last = dist.get_rank(), dist.get_world_size() - 1
        self._given = torch.randn(MICROBATCH, LENGTH, WIDTH)  # where no neighbour sends anything
        self._buffer = torch.empty_like(self._given)

    def step(self) -> None:
        sent = []
        for action in self._actions:
            if action.kind == Kind.BORDER:
                dist.all_reduce(torch.zeros(1))
                continue
            is_forward = action.kind == Kind.FORWARD
            work = self._stage.forward if is_forward else self._stage.backward
            before, after = self._rank - 1, self._rank + 1
            source, target = (before, after) if is_forward else (after, before)
            sent += self._work(work, action.microbatch or 0, source, target)
        for work_handle, _ in sent:
            work_handle.wait()
        self._stage.end_step()

    def _work(
        self, work: Callable[[int, Tensor], Tensor], microbatch: int, source: int, target: int
    ) -> list[tuple[dist.Work, Tensor]]:
        received = self._given
        if 0 <= source <= self._last:
            received = self._buffer
            dist.recv(received, source)
        made = work(microbatch, received)
        if not 0 <= target <= self._last:
            return []
        kept = made.clone()
        handle = dist.isend(kept, target)
        assert handle is not None
        return [(handle, kept)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--loss-file", type=Path, required=True)
    parser.add_argument("--real", type=int, required=True, metavar="RANK")
    parser.add_argument("--microbatches", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    is_real = rank == arguments.real
    durations_s = torch.zeros(2, dtype=torch.float64)
    real = RealStage(rank) if is_real else None
    if real is not None:
        durations_s[:] = torch.tensor(measure(real))
    dist.broadcast(durations_s, arguments.real)
    forward_s, backward_s = durations_s.tolist()
    schedule = one_f_one_b(dist.get_world_size(), arguments.microbatches)
    stage = EmulatedStage(forward_s, backward_s) if real is None else real
    follows = Rank(stage, schedule.ranks[rank])
    loss_file = arguments.loss_file if is_real else Path(os.devnull)
    with loss_file.open("w") as file:
        for step in range(arguments.steps):
            started = time.perf_counter()
            follows.step()
            line = {"step": step + 1, "loss": 0.0, "step_s": time.perf_counter() - started}
            print(json.dumps(line), file=file, flush=True)


if __name__ == "__main__":
    main()
