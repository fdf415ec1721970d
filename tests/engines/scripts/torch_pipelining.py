"""A tiny model under schedules of torch.distributed.pipelining; who has the last stage has losses.

torch_pipelining.py SCHEDULE,... STEPS WORK_MS ACCUMULATION
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from layers import Layer, microbatch, report
from torch import nn
from torch.distributed.pipelining import PipelineStage, schedules

STEPS, WORK_MS, ACCUMULATION = (int(text) for text in sys.argv[2:5])
MICROBATCHES = 4
STAGES_OF_RANK = {  # of four stages; otherwise there are two
    "ScheduleInterleaved1F1B": ([0, 2], [1, 3]),
    "ScheduleInterleavedZeroBubble": ([0, 2], [1, 3]),
    "ScheduleZBVZeroBubble": ([0, 3], [1, 2]),
}


def build(name: str) -> tuple[list[PipelineStage], Any]:
    """Four layers, over two stages or four."""
    indexes = STAGES_OF_RANK.get(name, ([0], [1]))[dist.get_rank()]
    num_stages = 2 * len(indexes)
    layers = [Layer(seed, WORK_MS) for seed in range(4)]
    size = 4 // num_stages
    stages = [
        PipelineStage(
            nn.Sequential(*layers[i * size : (i + 1) * size]), i, num_stages, torch.device("cpu")
        )
        for i in indexes
    ]
    schedule_class = getattr(schedules, name)
    is_single = issubclass(schedule_class, schedules.PipelineScheduleSingle)
    schedule = schedule_class(
        stages[0] if is_single else stages, MICROBATCHES, loss_fn=nn.functional.mse_loss
    )
    return stages, schedule


def train(name: str) -> list[float]:
    stages, schedule = build(name)
    parameters = [p for stage in stages for p in stage.submod.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    losses: list[float] = []
    for run in range(STEPS * ACCUMULATION):
        pairs = [microbatch(MICROBATCHES * run + i) for i in range(MICROBATCHES)]
        x, target = (torch.cat(part) for part in zip(*pairs, strict=True))
        of_run: list[torch.Tensor] = []
        schedule.step(
            *([x] if any(stage.is_first for stage in stages) else []),
            **(
                {"target": target, "losses": of_run}
                if any(stage.is_last for stage in stages)
                else {}
            ),
        )
        losses += [loss.item() for loss in of_run]
        if (run + 1) % ACCUMULATION == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    report({name: train(name) for name in sys.argv[1].split(",")})
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
