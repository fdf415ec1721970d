"""What is said where no cluster can be started."""

from __future__ import annotations

import pytest

from hydro_hpc.devcluster.requirements import (
    PROGRAMS,
    check_host,
    missing_packages,
    version_pair,
)
from hydro_hpc.errors import ConfigError, SlurmError


def everything(name: str) -> str:
    return f"/usr/sbin/{name}"


def test_another_system_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs Linux"):
        check_host(system="Darwin", euid=0, which=everything)


def test_without_root_the_way_to_get_it_is_said() -> None:
    with pytest.raises(ConfigError, match="needs root; run the same command with sudo"):
        check_host(system="Linux", euid=1000, which=everything)


def test_missing_packages_are_all_named_at_once() -> None:
    def half(name: str) -> str | None:
        return None if PROGRAMS[name] in ("munge", "slurmd") else everything(name)

    with pytest.raises(SlurmError, match="packages libslurm-dev, munge, slurmd,"):
        check_host(system="Linux", euid=0, which=half, exists=lambda path: "spank" not in path)
    assert missing_packages(everything, lambda _: True) == []


def test_one_of_a_files_places_is_enough() -> None:
    assert missing_packages(everything, lambda path: "lib/*" not in path) == []
    assert missing_packages(everything, lambda path: "pmix" not in path) == ["libpmix-dev"]


def test_versions_compare_by_year_and_month() -> None:
    assert version_pair("22.05.8") == (22, 5)
    assert version_pair("24.11.5") > version_pair("22.05.8")
