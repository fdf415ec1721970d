"""Replays how Megatron-Core's pipeline communicates (it is not Megatron-Core, nor its code).

    megatron_replay.py STEPS WORK_MS

1F1B without interleaving: warm-up forwards, a steady part in which the activation goes out and the
gradient comes in by one batch of isend and irecv, a cool-down of backwards; then the norm of all
gradients is reduced over the stages, before the optimizer steps.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from layers import BATCH, WIDTH, Layer, microbatch, report
from torch.nn.functional import mse_loss
from waits import Waits

STEPS, WORK_MS = (int(text) for text in sys.argv[1:3])
MICROBATCHES = 4
waits = Waits()


def exchange(
    *, rank: int, send: torch.Tensor | None = None, receives: bool = False
) -> torch.Tensor | None:
    """Sends to and receives from the other stage by one batch, and waits for both."""
    operations = []
    received = torch.empty(BATCH, WIDTH) if receives else None
    if send is not None:
        operations.append(dist.P2POp(dist.isend, send, 1 - rank))
    if received is not None:
        operations.append(dist.P2POp(dist.irecv, received, 1 - rank))
    waits.timed(_batch, operations)
    return received


def _batch(operations: list[dist.P2POp]) -> None:
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def first_stage(layer: Layer, numbers: list[int]) -> list[float]:
    """One microbatch ahead of the last stage, as its distance from it says."""
    outputs = [layer(microbatch(numbers[0])[0])]
    exchange(rank=0, send=outputs[0].detach())
    for number in numbers[1:]:
        outputs.append(layer(microbatch(number)[0]))
        gradient = exchange(rank=0, send=outputs[-1].detach(), receives=True)
        outputs.pop(0).backward(gradient)
    outputs.pop(0).backward(exchange(rank=0, receives=True))
    return []


def last_stage(layer: Layer, numbers: list[int]) -> list[float]:
    losses = []
    received = exchange(rank=1, receives=True)
    for number in numbers:
        assert received is not None
        received.requires_grad_()
        loss = mse_loss(layer(received), microbatch(number)[1])
        loss.backward()
        is_last = number == numbers[-1]
        received = exchange(rank=1, send=received.grad, receives=not is_last)
        losses.append(loss.item())
    return losses


def clip_by_norm_of_all_stages(parameters: list[torch.nn.Parameter]) -> None:
    square = torch.stack([p.grad.square().sum() for p in parameters if p.grad is not None]).sum()
    waits.timed(dist.all_reduce, square)
    torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, square.sqrt())


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    layer = Layer(rank, WORK_MS)
    parameters = list(layer.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    losses: list[float] = []
    for step in range(STEPS):
        numbers = [step * MICROBATCHES + i for i in range(MICROBATCHES)]
        losses += (first_stage, last_stage)[rank](layer, numbers)
        clip_by_norm_of_all_stages(parameters)
        optimizer.step()
        optimizer.zero_grad()
    report({"replay": losses}, waits=waits.as_report())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
