"""A primary of another engine: `torch.distributed.pipelining`'s 1F1B over gloo, two stages.

It takes the options of the example that the benchmarks need, and writes the same loss lines.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

MICROBATCHES = 4
MICROBATCH = 4  # sequences
LENGTH = 128
WIDTH = 128
BLOCKS = 2  # of a stage


def set_rank_variables() -> None:
    """Says in torchrun's variables what Slurm says in its own."""
    if "RANK" in os.environ:
        return
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    nodes = os.environ["SLURM_JOB_NODELIST"]
    first = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])
    os.environ.setdefault("MASTER_ADDR", first)
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000))


def build_stage(rank: int) -> nn.Module:
    torch.manual_seed(rank)
    blocks = [
        nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        for _ in range(BLOCKS)
    ]
    return nn.Sequential(*blocks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--loss-file", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_rank_variables()
    dist.init_process_group("gloo")
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    module = build_stage(rank)
    stage = PipelineStage(module, rank, last + 1, torch.device("cpu"))
    schedule = Schedule1F1B(stage, MICROBATCHES, loss_fn=nn.functional.mse_loss)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    loss_total = torch.zeros(())
    loss_file = arguments.loss_file if rank == 0 else Path(os.devnull)
    with loss_file.open("w") as file:
        for step in range(1, arguments.steps + 1):
            started = time.perf_counter()
            x = torch.randn(MICROBATCHES * MICROBATCH, LENGTH, WIDTH, generator=generator)
            losses: list[torch.Tensor] = []
            if rank == 0:
                schedule.step(x)
            else:
                schedule.step(target=torch.tanh(x), losses=losses)
            norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            dist.all_reduce(norm)
            optimizer.step()
            optimizer.zero_grad()
            loss_total = torch.stack(losses).mean().detach() if losses else loss_total
            dist.broadcast(loss_total, last)
            loss = loss_total.item()
            line = {"step": step, "loss": loss, "step_s": time.perf_counter() - started}
            print(json.dumps(line), file=file, flush=True)


if __name__ == "__main__":
    main()
