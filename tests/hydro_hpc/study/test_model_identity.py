"""Which changes of a study's model are seen without looking at its parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hydro_hpc.study.loading import load_study
from hydro_hpc.study.model_identity import model_identity

STUDY = """
import functools
import math
import torch
from torch import nn
from hydro_hpc import Study
from hydro_hpc.study import log_uniform
from hydro_hpc.surrogate import Narrow

POWER = -1.0
SCALE = torch.tensor(2.0)
HEAD = 8

@functools.lru_cache
def mask(length):
    return torch.ones(length, length).tril().bool()

class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.heads = width // HEAD
        self.into = nn.Linear(6, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(width, 2)
        self.register_buffer("shift", torch.linspace(0, 1, 5)[:, None])

    def forward(self, x):
        h = self.into(x).relu() + self.shift
        q, k, v = (p.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)
                   for p in self.qkv(h).chunk(3, -1))
        scores = (q @ k.mT) * HEAD ** POWER
        scores = scores.masked_fill(~mask(5), -math.inf).softmax(-1)
        h = h + (scores @ v).transpose(1, 2).flatten(-2) * SCALE
        return self.out(self.dropout(self.norm(h))).mean(1)

def data():
    x = torch.randn(64, 5, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0, 0] > 0).long(), x, (x[:, 0, 0] > 0).long()

study = Study(
    name="s", model=Net, data=data, loss=nn.CrossEntropyLoss(),
    space={"lr": log_uniform(1e-3, 1e-1)}, epochs=1, trials=1, surrogate=Narrow(width=16)
)
"""


def identity(folder: Path, text: str, *, name: str = "study.py") -> str | None:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return model_identity(load_study(file), {"lr": 0.01}, choose_rows=lambda x: x[:4])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("POWER = -1.0", "POWER = -0.5"),  # no code of a function
        ("SCALE = torch.tensor(2.0)", "SCALE = torch.tensor(2.1)"),
        ("torch.linspace(0, 1, 5)", "torch.linspace(0, 2, 5)"),
        (".relu()", ".tanh()"),
        ("nn.Dropout(0.1)", "nn.Dropout(0.2)"),
        ("self.heads = width // HEAD", "self.heads = 2 if width == 16 else 1"),  # not seen here
        ("nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(label_smoothing=0.1)"),
    ],
)
def test_a_model_that_computes_something_else_is_another(
    tmp_path: Path, before: str, after: str
) -> None:
    assert STUDY.count(before) == 1
    known = identity(tmp_path, STUDY)
    assert known is not None
    assert identity(tmp_path, STUDY.replace(before, after)) not in (known, None)


def test_a_model_that_has_not_changed_is_the_same(tmp_path: Path) -> None:
    first = identity(tmp_path, STUDY)
    torch.manual_seed(5)
    commented = STUDY.replace("h = self.into", "# first\n\n        h = self.into")
    assert first == identity(tmp_path, commented)
    assert first == identity(tmp_path, STUDY.replace("epochs=1", "epochs=2"))
    assert first == identity(tmp_path, STUDY, name="net-v1.2.py")


def test_what_a_process_keeps_of_a_models_first_call_changes_nothing(tmp_path: Path) -> None:
    """Here the mask, which the second process has not made when it knows the rules."""
    file = tmp_path / "study.py"
    file.write_text(STUDY, encoding="utf-8")
    found = set()
    for is_first in (True, False):
        study = load_study(file)
        study.keep_rules(tmp_path / "rules")
        if is_first:
            study.check()
        found.add(model_identity(study, {"lr": 0.01}, choose_rows=lambda x: x[:4]))
    assert len(found) == 1


def test_of_a_model_that_cannot_be_called_nothing_is_known(tmp_path: Path) -> None:
    text = STUDY.replace(
        "return self.out", "if self.heads == 2: raise OSError\n        return self.out"
    )
    assert text != STUDY
    assert identity(tmp_path, text) is None
    text = STUDY.replace("def data():", "def data():\n    raise OSError('no such file')")
    assert identity(tmp_path, text) is None
