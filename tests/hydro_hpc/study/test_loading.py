from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hydro_hpc.errors import StudyError
from hydro_hpc.study import load_study

GOOD = """
import torch
from torch import nn
from hydro_hpc import Study
from hydro_hpc.study import log_uniform

def data():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long(), x, (x[:, 0] > 0).long()

def model():
    return nn.Linear(3, 2)

def make(name="good"):
    return Study(name=name, model=model, data=data, loss=nn.CrossEntropyLoss(), epochs=1,
                 space={"lr": log_uniform(1e-3, 1e-1)}, trials=3)
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "study.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_only_study_of_a_file_is_found_under_any_name(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "\nmine = make()\nalso = mine\n")
    assert load_study(path).name == "good"


def test_loading_ends_at_run_and_trains_nothing(tmp_path: Path) -> None:
    tail = """
make('other')
try:
    make().run()
except Exception:
    pass
raise SystemExit(3)
"""
    assert load_study(write(tmp_path, GOOD + tail)).name == "good"
    assert list(tmp_path.glob("*.hydro")) == []


def test_a_study_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_a_study.py").write_text(GOOD, encoding="utf-8")
    path = write(tmp_path, "import neighbour_of_a_study\ns = neighbour_of_a_study.make()\n")
    assert load_study(path).name == "good"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\n", "study.py defines no Study; add one: study = Study(...)"),
        (
            GOOD + "a = make()\nb = make('b')\n",
            "study.py defines 2 studies (a, b); keep one per file",
        ),
        (
            "\nimport no_such_thing\n",
            "line 2: ModuleNotFoundError: No module named 'no_such_thing'",
        ),
        ("def f(:\n", "study.py, line 1: SyntaxError: invalid syntax"),
        ("def f():\n    1 / 0\nf()\n", "study.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('no')\n", "study.py, line 2: SystemExit: no"),
        (GOOD + "make(name='/')\n", "cannot name a folder"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(write(tmp_path, text))
    assert sentence in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"study file .*nothing\.py does not exist"):
        load_study(tmp_path / "nothing.py")
    (tmp_path / "study.txt").write_text("x = 1", encoding="utf-8")
    with pytest.raises(StudyError, match=r"its name must end in \.py"):
        load_study(tmp_path / "study.txt")


@pytest.mark.processes
@pytest.mark.parametrize("module", ["hydro_hpc", "hydro_hpc.study", "hydro_hpc.study.search"])
def test_searching_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.processes
def test_a_worker_needs_no_optuna() -> None:
    code = "import sys; from hydro_hpc import Study; sys.exit('optuna' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
