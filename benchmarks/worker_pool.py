"""The processes among which a benchmark's runs are shared, each on one thread."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import Final

import torch

PROCESSES: Final = 2


def worker_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(PROCESSES, initializer=torch.set_num_threads, initargs=(1,))
