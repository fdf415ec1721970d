"""The GPT example: its training script as a module, its study made small."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "gpt_pipeline" / "train.py"
SMALLER = {
    "LAYERS, SEQ = 4, 128": "LAYERS, SEQ = 1, 16",
    "STEPS, TEST_WINDOWS = 16, 200, 64": "STEPS, TEST_WINDOWS = 16, 20, 8",
    "trials=32": "trials=2",
}


def load_script() -> ModuleType:
    """Finds what lies beside it, as Python does for a script. Skips the test without DeepSpeed."""
    pytest.importorskip("deepspeed")
    spec = importlib.util.spec_from_file_location("gpt_pipeline_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = [*sys.path]
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def write_small_study(directory: Path, *, metric: str = "loss") -> Path:
    """Copies the study, with what it imports, as one that takes seconds."""
    shutil.copy(SCRIPT.with_name("gpt.py"), directory)
    text = SCRIPT.with_name("study.py").read_text(encoding="utf-8")
    for old, new in (SMALLER | {'metrics="loss"': f'metrics="{metric}"'}).items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = directory / "study.py"
    path.write_text(text, encoding="utf-8")
    return path
