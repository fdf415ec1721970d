"""What is said where no cluster can be started."""

from __future__ import annotations

import socket

import pytest

from hydro_hpc.devcluster.requirements import (
    PROGRAMS,
    check_host,
    choose_ports,
    is_free_port,
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


def test_ports_in_use_are_passed_over() -> None:
    assert choose_ports(3, is_free=lambda port: port >= 21010) == [21012, 21013, 21014]


def test_a_wanted_port_in_use_is_refused_by_number() -> None:
    with pytest.raises(SlurmError, match="port 6818 is in use"):
        choose_ports(2, first=6817, is_free=lambda port: port != 6818)


@pytest.mark.parametrize("first", [-5, 65535, 99999])
def test_a_port_that_cannot_be_is_refused(first: int) -> None:
    with pytest.raises(SlurmError, match=f"port {first} leaves no 2 ports in 1-65535"):
        choose_ports(2, first=first)


def test_no_ports_at_all_is_said() -> None:
    with pytest.raises(SlurmError, match="no 2 free ports"):
        choose_ports(2, is_free=lambda _: False)


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free_port(listener.getsockname()[1])


def test_versions_compare_by_year_and_month() -> None:
    assert version_pair("22.05.8") == (22, 5)
    assert version_pair("24.11.5") > version_pair("22.05.8")
