"""What being pausable costs a trial: its training with a gate that is always open, against the
same training that is never asked.

python -m benchmarks.hook_cost        (prints; benchmarks/squeeze.py takes the figure from here)
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from benchmarks.blocks import as_figure
from benchmarks.result_file import Figure
from benchmarks.ungated_trial import NoGate
from hydro_hpc.config import Settings
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind, Word
from hydro_hpc.study import Study, log_uniform
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.trial import Trial
from hydro_hpc.trial.gate import Gate, LaneGate
from hydro_hpc.trial.points import fast_passage
from hydro_hpc.trial.training import BundleTraining
from hydro_hpc.wait import FutexWord
from tests.hydro_hpc.lanes import make_lane, stage_page

SLOTS: Final = 16
ROWS: Final = 4096
BLOCK_S: Final = 0.05
LEARNING_STEPS: Final = 40
NEVER_CUT_NS: Final = 10**12
UNIT_NS: Final = int(Settings().unit_us * 1000)


def perceptron(width: int) -> nn.Module:
    sizes = [64, width, width, 10]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


MODELS: Final[dict[str, Callable[[], nn.Module]]] = {
    "digits MLP 64-64-64-10": lambda: perceptron(64),
    "MLP 64-256-256-10": lambda: perceptron(256),
    "CNN 8-16 channels": convolutions,
}


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 64, generator=generator)
    y = torch.randint(10, (ROWS,), generator=generator)
    return x, y, x[:64], y[:64]


class AlwaysOpen:
    """A lane whose gate stays open."""

    def __init__(self, directory: Path) -> None:
        lane = make_lane(directory)
        self.stage = stage_page(lane)
        self.stage.set("guard_word", Word.RUN)
        self.stage.set("owner_word", Word.RUN)
        self.stage.words[self.stage.word_index("window_us")] = 2**32 - 1  # 71 minutes
        self.stage.set("open_ns", time.monotonic_ns())
        self.stage.set("gate_word", 1 << 8 | GATE_OPEN)
        self.gate = LaneGate(
            stage=self.stage,
            site=Page.map_for_reading(page_path(lane, PageKind.SITE), PageKind.SITE),
            waiter=FutexWord(self.stage, "gate_word"),
            trial=Page.map_for_writing(page_path(lane, PageKind.TRIAL), PageKind.TRIAL),
            margin_ns=0,
            make_passage=fast_passage,
        )


def training(model: Callable[[], nn.Module], gate: Gate, unit_ns: int) -> BundleTraining:
    study = Study(
        name="hooks",
        model=model,
        data=data,
        loss=nn.CrossEntropyLoss(),
        space={"lr": log_uniform(1e-3, 1e-2)},
        optimizer="adam",
        epochs=10**6,
        batch_size=32,
        trials=SLOTS,
    )
    folder = StudyFolder(Path(tempfile.mkdtemp()), "hooks")
    folder.checkpoints.mkdir(parents=True)
    trials = [Trial(number=slot, seed=slot, params={"lr": 1e-3}) for slot in range(SLOTS)]
    made = BundleTraining(study, folder, gate, trials, unit_ns=unit_ns, report=None)
    for _ in range(LEARNING_STEPS):
        made.step()
    return made


def steps_per_second(made: BundleTraining) -> float:
    steps = 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < BLOCK_S:
        made.step()
        steps += 1
    return steps / passed


def hook_cost(name: str, *, pairs: int) -> Figure:
    """Returns how much longer a step takes with hooks and gate, 0.01 = 1%: blocks of both
    alternate."""
    with tempfile.TemporaryDirectory() as directory:
        asked = training(MODELS[name], AlwaysOpen(Path(directory)).gate, UNIT_NS)
        never = training(MODELS[name], NoGate(), NEVER_CUT_NS)
        lost = []
        for number in range(pairs):
            order = (asked, never) if number % 2 else (never, asked)
            rates = {id(made): steps_per_second(made) for made in order}
            lost.append(math.log(rates[id(never)] / rates[id(asked)]))
    return as_figure(lost)


def main() -> None:
    torch.set_num_threads(1)
    for name in MODELS:
        found = hook_cost(name, pairs=500)
        print(f"{name:24} {found.median:+.2%} [{found.low:+.2%}, {found.high:+.2%}]")


if __name__ == "__main__":
    main()
