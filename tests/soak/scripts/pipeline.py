"""A training over two stages on torch.distributed that checkpoints, and goes on from there.

    pipeline.py STEPS WORK_MS,WORK_MS DIRECTORY

Deterministic to the bit, whenever it was interrupted. The last stage appends a line per step to
DIRECTORY/losses: its number and its loss. WORK_MS is what each stage computes forward, and as much
backward.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss

WIDTH = 8
BATCH = 4
MICROBATCHES = 2
SAVE_EVERY = 20
KEPT = 3  # checkpoints
STEPS, DIRECTORY = int(sys.argv[1]), Path(sys.argv[3])
WORK_MS = [float(text) for text in sys.argv[2].split(",")]


def compute() -> None:
    """Uses so much time of its core: it takes longer if somebody else has the core."""
    end_ns = time.thread_time_ns() + int(WORK_MS[dist.get_rank()] * 1e6)
    while time.thread_time_ns() < end_ns:
        pass


def microbatch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    x, target = torch.randn(2, BATCH, WIDTH, generator=generator)
    return x, target


def forward_backward(layer: nn.Module, number: int) -> float:
    """One microbatch: the first stage, the second one, and back; its loss, on the second."""
    x, target = microbatch(number)
    if dist.get_rank() == 0:
        compute()
        y = layer(x)
        dist.send(y.detach(), 1)
        gradient = torch.zeros(BATCH, WIDTH)
        dist.recv(gradient, 1)
        compute()
        y.backward(gradient)
        return 0.0
    received = torch.zeros(BATCH, WIDTH)
    dist.recv(received, 0)
    received.requires_grad_()
    compute()
    loss = mse_loss(layer(received), target)
    compute()
    loss.backward()
    assert received.grad is not None
    dist.send(received.grad, 0)
    return loss.item()


def checkpoints() -> list[int]:
    """Returns the steps after which all ranks have stored theirs."""
    of_rank = [
        {int(path.parent.name) for path in DIRECTORY.glob(f"checkpoints/*/{rank}.pt")}
        for rank in range(dist.get_world_size())
    ]
    return sorted(set.intersection(*of_rank))


def load(state: dict[str, Any]) -> int:
    """Takes the last checkpoint that is whole on all ranks; returns the first step to make."""
    last = torch.tensor([max(checkpoints(), default=0)])
    dist.broadcast(last, 0)
    step = int(last)
    if step:
        path = DIRECTORY / f"checkpoints/{step}/{dist.get_rank()}.pt"
        stored = torch.load(path, weights_only=True)
        for name, part in state.items():
            part.load_state_dict(stored[name])
    return step


def save(state: dict[str, Any], step: int) -> None:
    folder = DIRECTORY / f"checkpoints/{step}"
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{dist.get_rank()}.new"
    torch.save({name: part.state_dict() for name, part in state.items()}, fresh)
    fresh.replace(fresh.with_suffix(".pt"))
    if dist.get_rank() == 0:
        for old in checkpoints()[:-KEPT]:
            shutil.rmtree(DIRECTORY / f"checkpoints/{old}", ignore_errors=True)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    layer = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    state = {"layer": layer, "optimizer": optimizer}
    with (DIRECTORY / "losses").open("a", encoding="ascii") as losses:
        for step in range(load(state), STEPS):
            loss = sum(
                forward_backward(layer, step * MICROBATCHES + i) for i in range(MICROBATCHES)
            )
            optimizer.step()
            optimizer.zero_grad()
            if dist.get_rank() == 1:
                print(step, loss.hex(), file=losses, flush=True)
            if (step + 1) % SAVE_EVERY == 0:
                save(state, step + 1)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
