"""Training F trials as a bundle against training F models: forward, backward and optimizer step,
all ways in turns on one core; and what binding and memory cost.

python -m benchmarks.fusion [--quick] [--out FILE]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from benchmarks.fusion_models import CASES, Case
from benchmarks.fusion_ways import WAYS, Batches, bundle_of, step_of
from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from tests.hydro_hpc.fusion.models.exactness import hold_to_exactness
from tests.hydro_hpc.fusion.models.registry import ARCHITECTURES
from tests.hydro_hpc.fusion.models.survey import survey

SLOTS: Final = (1, 2, 4, 8, 16, 32)
REPEATS: Final = 11
LEAST_S: Final = 0.02  # of one timing: several steps if one is shorter
MEMORY_SLOTS: Final = (2, 10)
PEERS: Final = ("vmap(grad)",)


def main() -> None:
    arguments = parse_arguments("What a bundle gains over separate models, and costs.")
    warnings.simplefilter("ignore")  # torch on its own slow paths
    torch.set_num_threads(1)
    repeats = 5 if arguments.quick else REPEATS
    peak = matmul_gflops()
    rows = []
    for name, case in CASES.items():
        for slots in SLOTS:
            if slots <= case.most_slots and (not arguments.quick or slots in (1, 4, 16)):
                rows.append(row_of(name, case, slots, repeats, peak))
                print(text_of(rows[-1]), flush=True)
    figures = {
        **speed_figures(rows),
        "memory_overhead": memory_overhead("mlp"),
        "bind_resnet50_s": bind_seconds(),
        **survey_figures(rows),
        "silently_wrong": silently_wrong(rows),
        "resnet18_f16_gpu": NotTaken(why="no GPU was at hand"),
    }
    write_result("fusion", figures=figures, rows=rows, out=arguments.out)


def row_of(name: str, case: Case, slots: int, repeats: int, peak: float) -> dict[str, Any]:
    """Times all ways of one model at one F, in turns."""
    torch.manual_seed(0)
    batches = [case.batch() for _ in range(slots)]
    steps: dict[str, Callable[[], None]] = {}
    row: dict[str, Any] = {"model": name, "slots": slots}
    for way, make in WAYS.items():
        try:
            if way == "ours":
                bundle = bundle_of(case, batches)
                row["executor"] = bundle.report.candidates[0].name
                row["report"] = str(bundle.report)
                steps[way] = step_of(bundle, case, batches)
            else:
                steps[way] = make(case, batches)
        except Exception as error:  # what a peer cannot do is a result
            row[f"{way}: refused"] = f"{type(error).__name__}: {error}"[:200]
    counts = {way: steps_in(step) for way, step in steps.items()}
    taken: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(repeats):
        for way, step in steps.items():
            started = time.perf_counter()
            for _ in range(counts[way]):
                step()
            taken[way].append((time.perf_counter() - started) / counts[way])
    row["ms"] = {way: statistics.median(times) * 1e3 for way, times in taken.items()}
    row["spread"] = {way: (max(times) - min(times)) * 1e3 for way, times in taken.items()}
    ratios = [s / o for s, o in zip(taken["separate"], taken["ours"], strict=True)]
    row["speedup"] = quartiles(ratios)
    peers = {
        way: quartiles([p / o for p, o in zip(taken[way], taken["ours"], strict=True)])
        for way in steps
        if way not in ("separate", "ours")
    }
    row["against"] = peers
    row["matmul_share"] = flops_of(case) * slots / statistics.median(taken["ours"]) / 1e9 / peak
    return row


def steps_in(step: Callable[[], None]) -> int:
    """How many steps one timing takes; warms up."""
    for _ in range(3):
        step()
    started = time.perf_counter()
    step()
    return max(1, int(LEAST_S / (time.perf_counter() - started)))


def quartiles(values: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"low": low, "median": median, "high": high, "n": len(values)}


def as_figure(found: dict[str, float], unit: str) -> Figure:
    return Figure(
        median=found["median"], low=found["low"], high=found["high"], n=int(found["n"]), unit=unit
    )


def speed_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Figure | NotTaken]:
    by = {(row["model"], row["slots"]): row for row in rows}
    worst = min(rows, key=lambda row: row["speedup"]["median"])
    at_16 = [row for row in rows if row["slots"] == 16]
    best_peers = [
        min((row["against"][peer] for peer in PEERS if peer in row["against"]), key=median_of)
        for row in at_16
        if any(peer in row["against"] for peer in PEERS)
    ]
    unit = "times as fast, quartiles"
    return {
        "worst_speedup": as_figure(
            worst["speedup"], f"{unit} ({worst['model']}, F={worst['slots']})"
        ),
        "mlp_f16": as_figure(by["mlp", 16]["speedup"], unit),
        "gpt_f16": as_figure(by["gpt", 16]["speedup"], unit),
        "peer_ratio_min_f16": as_figure(min(best_peers, key=median_of), unit),
    }


def median_of(found: dict[str, float]) -> float:
    return found["median"]


def matmul_gflops() -> float:
    """What one core reaches with matrices of 512."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - started)
    return 2 * 512**3 / min(times) / 1e9


def flops_of(case: Case) -> float:
    """Of one trial's forward and backward, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    model, (x, y) = case.make(), case.batch()
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(model(x), y).backward()
    return float(counter.get_total_flops())


def bind_seconds() -> Figure:
    """Binding ResNet-50 at F = 4, batch 2, 32 pixels: verification and timing included."""
    case = CASES["resnet50/8"]
    taken = []
    for _ in range(3):
        batches: Batches = [(x[:2], y[:2]) for x, y in (case.batch() for _ in range(4))]
        started = time.perf_counter()
        bundle_of(case, batches)
        taken.append(time.perf_counter() - started)
    return Figure(
        median=statistics.median(taken), low=min(taken), high=max(taken), n=3, unit="s, range"
    )


def memory_overhead(name: str) -> Figure:
    """Peak resident memory of one more slot in a bundle against one more separate model's."""
    few, many = MEMORY_SLOTS
    grown = {}
    for way in ("separate", "ours"):
        peaks = [peak_kib(name, way, slots) for slots in MEMORY_SLOTS]
        grown[way] = (peaks[1] - peaks[0]) / (many - few)
    ratio = grown["ours"] / grown["separate"] - 1
    return Figure(median=ratio, low=ratio, high=ratio, n=1, unit=f"of a separate model ({name})")


def peak_kib(name: str, way: str, slots: int) -> int:
    """Of a process that trains that many trials for a few steps."""
    command = [sys.executable, "-m", "benchmarks.fusion_memory", name, way, str(slots)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["peak_kib"])


def survey_figures(rows: list[dict[str, Any]]) -> dict[str, Figure]:
    """How many models of the tests' zoo run fused, by grouped modules or vmap."""
    findings = survey()
    names = {finding.name for finding in findings}
    fused = {f.name for f in findings if f.refusal is None and f.executor.value != "loop"}
    for name in sorted(names):
        rows.append({"model": name, "fused": name in fused})
    share = len(fused) / len(names)
    return {"fused_share": Figure(median=share, low=share, high=share, n=len(names), unit="models")}


def silently_wrong(rows: list[dict[str, Any]]) -> Figure:
    """How many of these models train otherwise than alone under an executor that was verified."""
    wrong = 0
    pairs = [(f.name, f.executor) for f in survey() if f.refusal is None]
    for name, kind in pairs:
        try:
            hold_to_exactness(ARCHITECTURES[name], kind)
        except Exception as error:  # an assertion, or what a model raises where it should not
            wrong += 1
            rows.append({"model": name, "executor": kind.value, "wrong": str(error)[:300]})
    return Figure(median=wrong, low=wrong, high=wrong, n=len(pairs), unit="models and executors")


def text_of(row: dict[str, Any]) -> str:
    times = ", ".join(f"{way} {ms:.3g}" for way, ms in row["ms"].items())
    return f"{row['model']:12} F={row['slots']:<3} x{row['speedup']['median']:.2f}  ({times} ms)"


if __name__ == "__main__":
    main()
