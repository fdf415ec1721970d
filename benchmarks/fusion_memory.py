"""What one more trial costs in memory: a further slot of a bundle against a separate model.

A separate model's is what one model takes at the peak of its training: batch, values, gradients,
optimizer and activations, without the libraries. A slot's is by how much the peak of a bundle grows
with F: in training, and apart from that while it is bound, since separate models have nothing like
binding, which copies and verifies. Sizes are of resident memory.

python -m benchmarks.fusion_memory MODEL separate|ours SLOTS
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
from typing import Any, Final

import torch

from benchmarks.fusion_models import CASES, Case
from benchmarks.fusion_ways import bundle_of, separate, step_of
from benchmarks.result_file import Figure
from hydro_hpc.devices.cpu_memory import CpuMemory

STEPS: Final = 5
MEASURED: Final = ("mlp 256", "gpt", "cnn", "resnet18/8")
SLOTS: Final = (4, 16)
REPEATS: Final = 3
# Freed memory goes back to the system at once, so that resident is what is held.
EXACT_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}


def main() -> None:
    name, way, slots = sys.argv[1:]
    torch.set_num_threads(1)
    case = CASES[name]
    measured = bundle_peaks(case, int(slots)) if way == "ours" else model_peak(case, int(slots))
    print(json.dumps(measured))


def model_peak(case: Case, models: int) -> dict[str, float]:
    """Of one model: what the process grows by from nothing to the peak of its training. The first
    model does not count, since the libraries grow with it."""
    peaks = []
    for _ in range(models):
        memory, before_bytes = fresh()
        step = separate(case, [case.make()], [case.batch()])
        for _ in range(STEPS):
            step()
        peaks.append(memory.peak_bytes() - before_bytes)
        del step
    return {"training": statistics.median(peaks[1:])}


def bundle_peaks(case: Case, slots: int) -> dict[str, float]:
    """Of the whole process, while it binds and while it trains."""
    memory, _ = fresh()
    batches = [case.batch() for _ in range(slots)]
    bundle = bundle_of([case.make() for _ in range(slots)], batches)
    step = step_of(bundle, case, batches)
    del batches
    bound_bytes = memory.peak_bytes()
    memory, _ = fresh()
    for _ in range(STEPS):
        step()
    return {"binding": bound_bytes, "training": memory.peak_bytes()}


def fresh() -> tuple[CpuMemory, int]:
    """The memory of this process and its present size, with no peak before it."""
    gc.collect()
    memory = CpuMemory()
    memory.give_back()
    memory.forget_peak()
    return memory, memory.used_bytes()


def memory_figures(rows: list[dict[str, Any]]) -> dict[str, Figure]:
    """The worst model's, in training and in binding."""
    found = {name: overheads(name, rows) for name in MEASURED}
    figures = {}
    for phase, figure in (("training", "memory_overhead"), ("binding", "bind_memory_overhead")):
        name = max(found, key=lambda name: statistics.median(found[name][phase]))
        values = found[name][phase]
        figures[figure] = Figure(
            median=statistics.median(values),
            low=min(values),
            high=max(values),
            n=len(values),
            unit=f"of a separate model's peak, range (the worst: {name})",
        )
    return figures


def overheads(name: str, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """By how much a slot takes more than a model; -0.1 is a tenth less."""
    few, many = SLOTS
    found: dict[str, list[float]] = {"training": [], "binding": []}
    for _ in range(REPEATS):
        model_bytes = peaks_of(name, "separate", many)["training"]
        less, more = (peaks_of(name, "ours", slots) for slots in SLOTS)
        slot_bytes = {phase: (more[phase] - less[phase]) / (many - few) for phase in more}
        rows.append({"model": name, "model_bytes": model_bytes, "slot_bytes": slot_bytes})
        for phase, size_bytes in slot_bytes.items():
            found[phase].append(size_bytes / model_bytes - 1)
    return found


def peaks_of(name: str, way: str, slots: int) -> dict[str, float]:
    """Bytes, of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fusion_memory", name, way, str(slots)]
    environment = {**os.environ, **EXACT_MALLOC}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {phase: float(size) for phase, size in json.loads(done.stdout).items()}


if __name__ == "__main__":
    main()
