"""The shared cluster as the plugin's tests use it: no files and no jobs of other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hydro_hpc.devcluster import Cluster
from tests.slurm_plugin.cluster.slurm_jobs import Jobs


@pytest.fixture
def jobs(cluster: Cluster) -> Iterator[Jobs]:
    share_partitions(cluster)
    for user in cluster.users:
        for path in cluster.home(user).iterdir():
            path.unlink()
    used = Jobs(cluster)
    yield used
    used.end_all()


def share_partitions(cluster: Cluster) -> None:
    """Lets jobs of the tenant partition run on nodes where others of `main` do."""
    update = ["scontrol", "update", "PartitionName=main", "OverSubscribe=FORCE:1"]
    done = cluster.on_node("login", update)
    assert done.returncode == 0, done.stderr
