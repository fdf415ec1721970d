"""What a benchmark leaves behind: one JSON file with figures, rows, machine, date and commit."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number with its 95% interval (or its quartiles, as `unit` says) over `n` observations."""

    median: float
    low: float
    high: float
    n: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotTaken:
    """A figure that could not be taken here."""

    why: str


def make_parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser of `quick` and `out`, the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="the same figures in under five minutes"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/")
    return parser


def parse_arguments(description: str) -> argparse.Namespace:
    """Returns the options of a benchmark that has no others."""
    return make_parser(description).parse_args()


def write_result(
    benchmark: str,
    *,
    figures: dict[str, Figure | NotTaken],
    rows: list[dict[str, Any]],
    out: Path | None,
    slurm: str | None = None,
) -> Path:
    """Writes the result file and returns where; prints the figures."""
    path = out or RESULTS / f"{benchmark}.json"
    content = {
        "schema": 1,
        "benchmark": benchmark,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "slurm": slurm,
        },
        "figures": {name: _as_json(figure) for name, figure in figures.items()},
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, figure in figures.items():
        print(f"{name:24} {_as_text(figure)}")
    print(f"written to {path}")
    return path


def _as_json(figure: Figure | NotTaken) -> dict[str, Any]:
    if isinstance(figure, NotTaken):
        return {"median": None, "why": figure.why}
    return asdict(figure)


def _as_text(figure: Figure | NotTaken) -> str:
    if isinstance(figure, NotTaken):
        return f"not taken: {figure.why}"
    f = figure
    return f"{f.median:.4g} [{f.low:.4g}, {f.high:.4g}] {f.unit} (n={f.n})"


def _commit() -> str:
    """Returns the commit, with a `+` if the tree differs from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    result = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
