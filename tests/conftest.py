"""Fixtures that several parts of the tests share."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.devcluster.requirements import check_host
from hydro_hpc.errors import HydroError
from hydro_hpc.identity import own_identity, read_start_ticks
from tests.hydro_hpc.warm_python import WarmPython

DIRECTORY_PREFIX: Final = "hydro-test"  # then "-<pid>-<start ticks>-<name>" of the test run
PARENT: Final = Path("/tmp")

modules_frozen = 0


def pytest_configure() -> None:
    """Undoes what a shell does to its background jobs, so that tests can interrupt processes; and
    torch, which is not imported yet, is left one thread per process: several of them spin for a
    core that another process holds, and made a test twelve times as slow.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    freeze_what_stays()


def pytest_runtest_logfinish() -> None:
    if len(sys.modules) > modules_frozen:
        freeze_what_stays()


def freeze_what_stays() -> None:
    """Each of some thousand bundles ends its building by a whole garbage collection, which need not
    look at all tests every time, nor at torch and what of it a test was the first to import.
    """
    global modules_frozen
    gc.collect()
    gc.freeze()
    modules_frozen = len(sys.modules)


def own_directory(name: str) -> Path:
    """Returns a directory for a cluster of this test run; it must not exist yet."""
    own = own_identity()
    return PARENT / f"{DIRECTORY_PREFIX}-{own.pid}-{own.start_ticks}-{name}"


def end_clusters_of_dead_runs() -> None:
    """Ends the clusters of test runs that were killed before they could do it themselves."""
    for directory in PARENT.glob(f"{DIRECTORY_PREFIX}-*-*-*"):
        pid, start_ticks = directory.name.removeprefix(DIRECTORY_PREFIX).split("-")[1:3]
        if read_start_ticks(int(pid)) != int(start_ticks):
            Cluster(ClusterSpec(directory=directory)).down()


def skip_without_slurm() -> None:
    """Skips where no cluster can be started, and says why."""
    try:
        check_host()
    except HydroError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's cache is read or written."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster of two nodes of one device, shared by all tests of the session.

    Leave it as it was: no jobs, all daemons up. Mark the test with `slurm`.
    """
    skip_without_slurm()
    end_clusters_of_dead_runs()
    shared = Cluster(ClusterSpec(nodes=2, devices_per_node=1, directory=own_directory("shared")))
    try:
        shared.up()
        yield shared
    finally:
        shared.down()


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """One Python for all training scripts that need none of their own."""
    python = WarmPython(tmp_path_factory.mktemp("warm"))
    try:
        yield python
    finally:
        python.close()


@pytest.fixture
def cluster_directory() -> Iterator[Path]:
    """A directory for a cluster of the test's own, which is ended after the test."""
    skip_without_slurm()
    directory = own_directory(f"own{os.urandom(3).hex()}")
    try:
        yield directory
    finally:
        Cluster(ClusterSpec(directory=directory)).down()
