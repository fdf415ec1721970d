"""Two stages written by hand on torch.distributed, in some of its ways to communicate.

    plain.py WAY,... STEPS WORK_MS ACCUMULATION

Each rank measures for itself how long its communication takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from layers import BATCH, WIDTH, Layer, microbatch, report
from torch.distributed import _functional_collectives as functional
from torch.nn.functional import mse_loss

STEPS, WORK_MS, ACCUMULATION = (int(text) for text in sys.argv[2:5])
waited_ns = 0


def timed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    global waited_ns
    start_ns = time.monotonic_ns()
    result = function(*args, **kwargs)
    waited_ns += time.monotonic_ns() - start_ns
    return result


def send(way: str, x: torch.Tensor, to: int) -> None:
    if way == "blocking":
        timed(dist.send, x, to)
    elif way == "work":
        timed(timed(dist.isend, x, to).wait)
    elif way == "batch":
        for work in timed(dist.batch_isend_irecv, [dist.P2POp(dist.isend, x, to)]):
            timed(work.wait)
    elif way == "collective":
        timed(dist.broadcast, x, dist.get_rank())
    else:  # functional
        timed(functional.wait_tensor, functional.all_reduce(x, "sum", dist.group.WORLD))


def receive(way: str, source: int) -> torch.Tensor:
    x = torch.zeros(BATCH, WIDTH)
    if way == "blocking":
        timed(dist.recv, x, source)
    elif way == "work":
        timed(timed(dist.irecv, x, source).wait)
    elif way == "batch":
        for work in timed(dist.batch_isend_irecv, [dist.P2POp(dist.irecv, x, source)]):
            timed(work.wait)
    elif way == "collective":
        timed(dist.broadcast, x, source)
    else:
        x = timed(functional.wait_tensor, functional.all_reduce(x, "sum", dist.group.WORLD))
    return x


def forward_backward(way: str, layer: Layer, number: int) -> list[float]:
    """One microbatch: rank 0's layer, then rank 1's, and back."""
    x, target = microbatch(number)
    if dist.get_rank() == 0:
        y = layer(x)
        send(way, y.detach(), 1)
        y.backward(receive(way, 1))
        return []
    received = receive(way, 0).requires_grad_()
    loss = mse_loss(layer(received), target)
    loss.backward()
    assert received.grad is not None
    send(way, received.grad, 0)
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
    timed(dist.barrier)
    report(losses, waited_ns=waited_ns)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
