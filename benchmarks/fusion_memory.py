"""Trains F trials of one model for a few steps and prints the process's peak of resident memory.

python -m benchmarks.fusion_memory MODEL WAY SLOTS
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Final

import torch

from benchmarks.fusion_models import CASES
from benchmarks.fusion_ways import WAYS

STEPS: Final = 5


def main() -> None:
    name, way, slots = sys.argv[1:]
    torch.set_num_threads(1)
    case = CASES[name]
    step = WAYS[way](case, [case.batch() for _ in range(int(slots))])
    for _ in range(STEPS):
        step()
    print(json.dumps({"peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


if __name__ == "__main__":
    main()
