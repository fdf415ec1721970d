"""The trial of the benchmark without a gate: what it does to a primary, and what it does alone.

Trains the same bundle as the gang's worker, as fast as the core lets it, and counts samples in a
page.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hydro_hpc.page_layout import RecordKind
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.study.trial import Trial, trial_seed
from hydro_hpc.trial.gate import Cut
from hydro_hpc.trial.training import BundleTraining


class NoGate:
    """Admits everything at once."""

    num_samples = 0

    def admit(self, need_ns: int) -> None:
        pass

    @contextmanager
    def work(self, name: str) -> Iterator[Cut]:  # noqa: ARG002
        yield lambda _next: None

    @contextmanager
    def doing(self, kind: RecordKind) -> Iterator[None]:  # noqa: ARG002
        yield

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        yield


def main() -> None:
    study_file, core, counter_file, slots = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    torch.set_num_threads(1)
    study = load_study(study_file)
    middle = {name: distribution.middle() for name, distribution in study.searched.items()}
    folder = StudyFolder(Path(counter_file).parent, f"ungated-{core}")
    folder.checkpoints.mkdir(parents=True)
    gate = NoGate()

    def trial(number: int) -> Trial:
        return Trial(number=number, seed=trial_seed(study.seed, number), params=middle)

    trials = [trial(number) for number in range(int(slots))]
    training = BundleTraining(study, folder, gate, trials, unit_ns=200_000, report=None)
    number = int(slots)
    with open(counter_file, "r+b", buffering=0) as counter:
        while True:
            for _ in training.step():
                training.begin(trial(number))
                number += 1
            os.pwrite(counter.fileno(), struct.pack("<Q", gate.num_samples), 0)


if __name__ == "__main__":
    main()
