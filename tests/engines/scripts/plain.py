"""Two stages written by hand on torch.distributed, in some of its ways to communicate.

    plain.py WAY,... STEPS WORK_MS ACCUMULATION

Each rank measures for itself how long its communication takes.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from layers import BATCH, WIDTH, Layer, microbatch, report
from torch.distributed import _functional_collectives as functional
from torch.nn.functional import mse_loss
from waits import Waits

STEPS, WORK_MS, ACCUMULATION = (int(text) for text in sys.argv[2:5])
waits = Waits()


def send(way: str, x: torch.Tensor, to: int) -> None:
    if way == "blocking":
        dist.send(x, to)
    elif way == "work":
        dist.isend(x, to).wait()
    elif way == "batch":
        for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, x, to)]):
            work.wait()
    elif way == "collective":
        dist.broadcast(x, dist.get_rank())
    else:  # functional
        functional.wait_tensor(functional.all_reduce(x, "sum", dist.group.WORLD))


def receive(way: str, source: int) -> torch.Tensor:
    x = torch.zeros(BATCH, WIDTH)
    if way == "blocking":
        dist.recv(x, source)
    elif way == "work":
        dist.irecv(x, source).wait()
    elif way == "batch":
        for work in dist.batch_isend_irecv([dist.P2POp(dist.irecv, x, source)]):
            work.wait()
    elif way == "collective":
        dist.broadcast(x, source)
    else:
        x = functional.wait_tensor(functional.all_reduce(x, "sum", dist.group.WORLD))
    return x


def forward_backward(way: str, layer: Layer, number: int) -> list[float]:
    """One microbatch: rank 0's layer, then rank 1's, and back."""
    x, target = microbatch(number)
    if dist.get_rank() == 0:
        y = layer(x)
        waits.timed(send, way, y.detach(), 1)
        y.backward(waits.timed(receive, way, 1))
        return []
    received = waits.timed(receive, way, 0).requires_grad_()
    loss = mse_loss(layer(received), target)
    loss.backward()
    assert received.grad is not None
    waits.timed(send, way, received.grad, 0)
    return [loss.item()]


def train(way: str) -> list[float]:
    rank = dist.get_rank()
    layer = Layer(rank, WORK_MS)
    optimizers = [torch.optim.SGD([layer.linear.weight], lr=0.1)]
    if rank == 1:  # the ranks' optimizers differ
        optimizers.append(torch.optim.SGD([layer.linear.bias], lr=0.1))
    losses: list[float] = []
    for step in range(STEPS):
        for i in range(ACCUMULATION):
            losses += forward_backward(way, layer, step * ACCUMULATION + i)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    losses = {way: train(way) for way in sys.argv[1].split(",")}
    waits.timed(dist.barrier)
    report(losses, waits=waits.as_report())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
