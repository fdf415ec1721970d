"""A road for one test, or for all of a class."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hydro_hpc.devcluster import Cluster
from tests.end_to_end.road import Road, empty_homes
from tests.slurm_plugin.cluster.slurm_jobs import Jobs


@pytest.fixture
def road(cluster: Cluster) -> Iterator[Road]:
    empty_homes(cluster, *cluster.users)
    jobs = Jobs(cluster)
    yield Road(cluster, jobs)
    jobs.end_all()


@pytest.fixture(scope="class")
def road_of_class(cluster: Cluster) -> Iterator[Road]:
    empty_homes(cluster, *cluster.users)
    jobs = Jobs(cluster)
    yield Road(cluster, jobs)
    jobs.end_all()
