"""Training F trials as a bundle against training F models: forward, backward and optimizer step,
all ways in turns on one core; and what binding and memory cost.

python -m benchmarks.fusion [--quick] [--out FILE]
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch

from benchmarks.fusion_memory import memory_figures
from benchmarks.fusion_models import CASES, Case
from benchmarks.fusion_rows import row_of
from benchmarks.fusion_ways import Batches, bundle_of
from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from tests.hydro_hpc.fusion.models.exactness import hold_to_exactness
from tests.hydro_hpc.fusion.models.registry import ARCHITECTURES
from tests.hydro_hpc.fusion.models.survey import Finding, survey

SLOTS: Final = (1, 2, 4, 8, 16, 32)
REPEATS: Final = 11
FUSING_PEERS: Final = ("vmap(grad)", "hfta", "hydro")


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
                row = row_of(name, case, slots, repeats)
                gflops = flops_of(case) * slots / row["ms"]["ours"] / 1e6
                rows.append(row | {"matmul_share": gflops / peak})
                print(text_of(rows[-1]), flush=True)
    speeds = speed_figures(rows)  # before rows of another kind come
    findings = survey()
    figures = {
        **speeds,
        **memory_figures(rows),
        "bind_resnet50_s": bind_seconds(),
        "fused_share": fused_share(findings, rows),
        "silently_wrong": silently_wrong(findings, rows),
        "resnet18_f16_gpu": NotTaken(why="no GPU was at hand"),
    }
    write_result("fusion", figures=figures, rows=rows, out=arguments.out)


def as_figure(found: dict[str, float], unit: str) -> Figure:
    return Figure(
        median=found["median"], low=found["low"], high=found["high"], n=int(found["n"]), unit=unit
    )


def speed_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Figure | NotTaken]:
    by = {(row["model"], row["slots"]): row for row in rows}
    worst = min(rows, key=lambda row: row["speedup"]["median"])
    at_16 = [row for row in rows if row["slots"] == 16]
    unit = "times as fast, quartiles"
    return {
        "worst_speedup": as_figure(
            worst["speedup"], f"{unit} ({worst['model']}, F={worst['slots']})"
        ),
        "mlp_f16": as_figure(by["mlp", 16]["speedup"], unit),
        "gpt_f16": as_figure(by["gpt", 16]["speedup"], unit),
        "peer_ratio_min_f16": peer_ratio(at_16),
    }


def peer_ratio(rows: Sequence[dict[str, Any]]) -> Figure | NotTaken:
    """Against the best fusing peer of each model, the model with the least of it."""
    best = []
    for row in rows:
        ratios = [(row["against"][peer], peer) for peer in FUSING_PEERS if peer in row["against"]]
        if ratios:
            found, peer = min(ratios, key=lambda pair: pair[0]["median"])
            best.append((found, f"{row['model']}, {peer}"))
    if not best:
        return NotTaken(why="no peer that fuses ran")
    found, where = min(best, key=lambda pair: pair[0]["median"])
    return as_figure(found, f"times as fast, quartiles ({where})")


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
        models = [case.make() for _ in batches]
        started = time.perf_counter()
        bundle_of(models, batches)
        taken.append(time.perf_counter() - started)
    return Figure(
        median=statistics.median(taken), low=min(taken), high=max(taken), n=3, unit="s, range"
    )


def fused_share(findings: Sequence[Finding], rows: list[dict[str, Any]]) -> Figure:
    """How many models of the tests' zoo run fused, by grouped modules or vmap."""
    names = {finding.name for finding in findings}
    fused = {f.name for f in findings if f.refusal is None and f.executor.value != "loop"}
    for name in sorted(names):
        rows.append({"model": name, "fused": name in fused})
    share = len(fused) / len(names)
    return Figure(median=share, low=share, high=share, n=len(names), unit="of the models")


def silently_wrong(findings: Sequence[Finding], rows: list[dict[str, Any]]) -> Figure:
    """How many of these models train otherwise than alone under an executor that was verified.
    One that raises is no silent one: it is in `rows`.
    """
    wrong = 0
    pairs = [(f.name, f.executor) for f in findings if f.refusal is None]
    for name, kind in pairs:
        row = {"model": name, "executor": kind.value}
        try:
            hold_to_exactness(ARCHITECTURES[name], kind)
        except AssertionError as error:
            wrong += 1
            rows.append({**row, "wrong": str(error)[:300]})
        except Exception as error:  # whatever a model raises
            rows.append({**row, "raised": f"{type(error).__name__}: {error}"[:300]})
    return Figure(median=wrong, low=wrong, high=wrong, n=len(pairs), unit="models and executors")


def text_of(row: dict[str, Any]) -> str:
    times = ", ".join(f"{way} {ms:.3g}" for way, ms in row["ms"].items())
    return f"{row['model']:12} F={row['slots']:<3} x{row['speedup']['median']:.2f}  ({times} ms)"


if __name__ == "__main__":
    main()
