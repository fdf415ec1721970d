"""The trial of the benchmark without a gate: what it does to a primary, and what it does alone.

Trains the same bundle as the gang's worker, as fast as the core lets it (or as a lane's gate does),
and counts samples in a file.
"""

from __future__ import annotations

import argparse
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hydro_hpc.config import Settings
from hydro_hpc.devices import cpu_core
from hydro_hpc.page_layout import RecordKind
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.study.trial import Trial, trial_seed
from hydro_hpc.trial.gate import Cut, Gate
from hydro_hpc.trial.lane import TenantLane
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
    arguments = parse()
    core, slots = arguments.core, arguments.slots
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    study = load_study(arguments.study)
    middle = {name: distribution.middle() for name, distribution in study.searched.items()}
    folder = StudyFolder(arguments.counter.parent, arguments.counter.name)
    folder.checkpoints.mkdir(parents=True)
    gate: Gate = NoGate()
    samples = 0
    if arguments.lane is not None:
        cpu_core.enter_batch_class()
        gate = TenantLane(arguments.lane).gate(Settings(), trial=None)

    def trial(number: int) -> Trial:
        return Trial(number=number, seed=trial_seed(study.seed, number), params=middle)

    trials = [trial(number) for number in range(slots)]
    training = BundleTraining(study, folder, gate, trials, unit_ns=200_000, report=None)
    number = slots
    with arguments.counter.open("r+b", buffering=0) as counter:
        while True:
            for _ in training.step():
                training.begin(trial(number))
                number += 1
            samples += study.batch_size_of(middle) * slots
            os.pwrite(counter.fileno(), struct.pack("<Q", samples), 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("core", type=int)
    parser.add_argument("counter", type=Path)
    parser.add_argument("slots", type=int)
    parser.add_argument("--lane")
    return parser.parse_args()


if __name__ == "__main__":
    main()
