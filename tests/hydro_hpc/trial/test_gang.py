"""Joining a gang: alone without MPI, and one sentence where MPI is missing."""

from __future__ import annotations

import sys

import pytest

from hydro_hpc.errors import ConfigError
from hydro_hpc.trial import gang


def test_single_task_loads_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    joined = gang.join_gang({"SLURM_NTASKS": "1"})
    assert (joined.rank, joined.size) == (0, 1)
    assert list(joined.receive()) == []


def test_missing_mpi_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ConfigError, match=r"install hydro-hpc\[mpi\]"):
        gang.join_gang({"SLURM_NTASKS": "2"})
