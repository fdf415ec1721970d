"""Choices of executors that were made before: on disk, one file each, the first one stays.

A choice by timing would come out differently now and then, and executors differ in their last bits:
so a study writes its choices down and replays them. A cache of the user's saves timing them again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.code_identity import code_of
from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.report import BundleReport, Candidate, PartTime
from hydro_hpc.fusion.sample import Sample

FORMAT: Final = 4  # of the files, and of what executors do: another number makes all be chosen anew


def users_cache() -> Path:
    """Where the user's choices are kept, by the rules of freedesktop.org."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "hydro" / "choices"


def key_of(models: Sequence[nn.Module], sample: Sample, *, compiles: bool = False) -> str:
    """Equal for bundles among whose executors the same ones are exact and the same one the fastest,
    here: so it has the code of the models and of the loss. `compiles` says whether compiled ones
    are among them.
    """
    first = models[0]
    device = next(first.parameters()).device
    form = InputForm.of(sample.args, sample.kwargs)
    facts = [
        FORMAT,
        len(models),
        code_of(first),
        [module.training for module in first.modules()],
        [(n, list(p.shape), str(p.dtype), p.requires_grad) for n, p in first.named_parameters()],
        [(name, list(b.shape), str(b.dtype)) for name, b in first.named_buffers()],
        code_of(sample.loss),
        str(pytree.tree_map_only(Tensor, lambda x: (x.dtype, list(x.shape)), sample.targets)),
        str(form.structure),
        str(form.shapes),
        str(form.precision),
        torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        torch.__version__,
        torch.get_num_threads(),
        compiles,
    ]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


def _processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


class ChoiceFolder:
    """A folder with one file per choice. What cannot be read or written counts as not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> BundleReport | None:
        try:
            return from_json(json.loads((self.path / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, report: BundleReport) -> None:
        """Keeps the report, if there is none yet: of several at once the first stays."""
        temporary = self.path / f"{key}.{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(to_json(report), indent=1), encoding="utf-8")
            try:
                os.link(temporary, self.path / f"{key}.json")
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        except OSError:
            return


def to_json(report: BundleReport) -> dict[str, Any]:
    """As `hydro explain` reads it, too."""
    data = asdict(report)
    data["executor"] = None if report.executor is None else report.executor.value
    return data


def from_json(data: dict[str, Any]) -> BundleReport:
    """KeyError, TypeError or ValueError if it is no report."""
    return BundleReport(
        slots=data["slots"],
        executor=ExecutorKind(data["executor"]),
        reason=data["reason"],
        channels_last=data["channels_last"],
        compiled=data["compiled"],
        candidates=tuple(Candidate(**candidate) for candidate in data["candidates"]),
        per_slot=data["per_slot"],
        one_by_one=data["one_by_one"],
        times=tuple(PartTime(**part) for part in data["times"]),
    )
