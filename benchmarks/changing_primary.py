"""A primary that changes while it trains, and that a trial slows from some step on.

Two stages of `torch.distributed.pipelining`, 1F1B. At given steps the sequences get longer and the
microbatches more. From `--slow-from` on rank 0 spends a share of a step more whenever its bubbles
are lent: a trial that costs the primary so much, but by a known amount.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from benchmarks.pipelining_primary import MICROBATCH, MICROBATCHES, WIDTH, build_stage
from hydro_hpc.page import Page, lane_dir, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.primary.guard import GuardSettings, is_shut

LENGTH: Final = 96  # tokens
LONG_LENGTH: Final = 160
MORE_MICROBATCHES: Final = 6


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


class Lent:
    """Says whether the bubbles of a step are lent, as this rank's page says it."""

    def __init__(self, settings: GuardSettings) -> None:
        lane = lane_dir(os.environ["HYDRO_PAGE_DIR"], int(os.environ["LOCAL_RANK"]))
        self._page = Page.map_for_reading(page_path(lane, PageKind.STAGE), PageKind.STAGE)
        self._settings = settings

    def now(self) -> bool:
        step = self._page.get("step")
        return self._page.get("guard_word") == Word.RUN and not is_shut(step, self._settings)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--loss-file", type=Path, required=True)
    parser.add_argument("--longer-at", type=int, required=True, metavar="STEP")
    parser.add_argument("--more-at", type=int, required=True, metavar="STEP")
    parser.add_argument("--slow-from", type=int, required=True, metavar="STEP")
    parser.add_argument("--slow-by", type=float, required=True, metavar="SHARE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    module = build_stage(rank)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    lent = Lent(GuardSettings(dense_steps=int(os.environ["HYDRO_GUARD_DENSE_STEPS"])))
    length, microbatches = LENGTH, MICROBATCHES
    loss_file = arguments.loss_file if rank == 0 else Path(os.devnull)
    recent_s: list[float] = []
    schedule = None
    with loss_file.open("w") as file:
        for step in range(arguments.steps):
            started = time.perf_counter()
            if step in (0, arguments.longer_at, arguments.more_at):
                length = LONG_LENGTH if step == arguments.longer_at else LENGTH
                microbatches = MORE_MICROBATCHES if step == arguments.more_at else MICROBATCHES
                stage = PipelineStage(module, rank, last + 1, torch.device("cpu"))
                schedule = Schedule1F1B(stage, microbatches, loss_fn=nn.functional.mse_loss)
            assert schedule is not None
            x = torch.randn(microbatches * MICROBATCH, length, WIDTH, generator=generator)
            if rank == 0:
                schedule.step(x)
            else:
                schedule.step(target=torch.tanh(x), losses=[])
            if step >= arguments.slow_from and rank == 0 and lent.now():
                spin(arguments.slow_by * statistics.median(recent_s))
            norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            dist.all_reduce(norm)
            optimizer.step()
            optimizer.zero_grad()
            taken_s = time.perf_counter() - started
            if step < arguments.slow_from:
                recent_s = [*recent_s[-50:], taken_s]
            line = {"step": step + 1, "loss": float(norm), "step_s": taken_s}
            print(json.dumps(line), file=file, flush=True)


if __name__ == "__main__":
    main()
