"""A study of a tiny model, written to a file as a user would: for tests that start real gangs."""

from __future__ import annotations

import textwrap
from pathlib import Path

STUDY = """
import torch
from torch import nn
from hydro_hpc.study import Study, log_uniform

class Net(nn.Module):
    def __init__(self, lr=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    def forward(self, x):
        return self.layers(x)

def data():
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    return x[:192], y[:192], x[192:], y[192:]

study = Study(name="tiny", model=MODEL, data=data, loss=LOSS, metrics="loss",
              space={"lr": log_uniform(1e-3, 1e-1)}, optimizer="adam", search="random",
              epochs=EPOCHS, batch_size=32, trials=TRIALS, slots=4)
"""


def write_study(
    directory: Path,
    *,
    trials: int = 6,
    epochs: int = 3,
    model: str = "Net",
    loss: str = "nn.CrossEntropyLoss()",
    before: str = "",
) -> Path:
    text = STUDY.replace("TRIALS", str(trials)).replace("EPOCHS", str(epochs))
    text = text.replace("MODEL", model).replace("LOSS", loss)
    head, mark, tail = text.partition("study = Study(")
    path = directory / "study.py"
    path.write_text(head + textwrap.dedent(before) + "\n" + mark + tail)
    return path
