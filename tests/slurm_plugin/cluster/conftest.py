"""The shared cluster as the plugin's tests use it: no files and no jobs of other tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from hydro_hpc.devcluster import Cluster
from tests.slurm_plugin.cluster.slurm_jobs import Jobs


@pytest.fixture
def jobs(cluster: Cluster) -> Iterator[Jobs]:
    for user in cluster.users:
        for path in cluster.home(user).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    used = Jobs(cluster)
    yield used
    used.end_all()
