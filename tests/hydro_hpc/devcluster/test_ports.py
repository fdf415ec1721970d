"""Ports that one cluster chooses and no other, and those that somebody listens on."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hydro_hpc.devcluster.ports import reserved_ports
from hydro_hpc.errors import SlurmError


@pytest.fixture
def among() -> range:
    """A few ports of this process's own, which neither a cluster nor the kernel chooses."""
    start = 11_000 + 12 * (os.getpid() % 700)
    return range(start, start + 12)


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield


def test_ports_that_somebody_listens_on_are_passed_over(among: range) -> None:
    first = among.start
    with listening(first + 1), reserved_ports(3, among=among) as ports:
        assert ports == [first + 3, first + 4, first + 5]


def test_clusters_that_start_at_once_choose_different_ports(among: range) -> None:
    with contextlib.ExitStack() as held, ThreadPoolExecutor() as pool:
        started = pool.map(lambda _: held.enter_context(reserved_ports(3, among=among)), range(4))
        assert sorted(port for ports in started for port in ports) == list(among)


def test_ports_are_held_against_other_processes_until_the_end_of_the_block(among: range) -> None:
    code = (
        "from hydro_hpc.devcluster.ports import reserved_ports\n"
        f"with reserved_ports(3, among={among!r}) as ports: print(ports[0])"
    )

    def others_first() -> int:
        command = [sys.executable, "-c", code]
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    with reserved_ports(3, among=among) as ports:
        assert others_first() == ports[0] + 3
    assert others_first() == ports[0]


def test_daemons_can_listen_on_ports_that_are_held(among: range) -> None:
    with reserved_ports(1, among=among) as [port], listening(port):
        pass


def test_a_wanted_port_in_use_is_refused_by_number(among: range) -> None:
    first = among.start
    with (
        listening(first + 1),
        pytest.raises(SlurmError, match=f"port {first + 1} is in use"),
        reserved_ports(2, first=first),
    ):
        pass
    with reserved_ports(1, first=first) as ports:
        assert ports == [first]


def test_a_wanted_port_that_another_cluster_has_chosen_is_in_use(among: range) -> None:
    first = among.start
    with (
        reserved_ports(1, first=first),
        pytest.raises(SlurmError, match=f"port {first} is in use"),
        reserved_ports(1, first=first),
    ):
        pass


@pytest.mark.parametrize("first", [-5, 65535, 99999])
def test_a_port_that_cannot_be_is_refused(first: int) -> None:
    with (
        pytest.raises(SlurmError, match=f"port {first} leaves no 2 ports in 1-65535"),
        reserved_ports(2, first=first),
    ):
        pass


def test_no_ports_at_all_is_said(among: range) -> None:
    with (
        reserved_ports(12, among=among),
        pytest.raises(SlurmError, match="no 2 free ports"),
        reserved_ports(2, among=among),
    ):
        pass
