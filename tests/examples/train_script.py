"""The GPT example's training script, as a module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "gpt_pipeline" / "train.py"


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
