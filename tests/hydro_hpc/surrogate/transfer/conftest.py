"""A study in a file, which trains in milliseconds and has run or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hydro_hpc.study import Study
from hydro_hpc.study.loading import load_study
from tests.hydro_hpc.tiny_study import write_study

RunStudy = Callable[..., Path]


@pytest.fixture
def run_study(tmp_path: Path) -> RunStudy:
    """Writes the tiny study, runs its first `run` trials, and returns its file."""

    def write_and_run(*, run: int = 6, trials: int = 6, **changes: str | int) -> Path:
        path = write_study(tmp_path, trials=trials, **changes)  # type: ignore[arg-type]
        if run:
            start(load_study(path), path.parent, trials=run)
        return path

    return write_and_run


def start(study: Study, directory: Path, *, trials: int) -> None:
    """Runs a study until so many of its trials have ended."""
    planned, study.trials = study.trials, trials
    study.run(directory)
    study.trials = planned
