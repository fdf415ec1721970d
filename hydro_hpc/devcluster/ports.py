"""The TCP ports of a cluster: chosen, and held until its daemons listen on them.

A name in Linux's abstract namespace, which is one per network namespace as ports are, tells other
clusters that a port is chosen; it goes with the process that holds it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Final

from hydro_hpc.errors import SlurmError

FIRST_PORT: Final = 21000  # below the kernel's ephemeral ports
LAST_PORT: Final = 29999


@contextlib.contextmanager
def reserved_ports(
    count: int, *, first: int = 0, among: range = range(FIRST_PORT, LAST_PORT + 1)
) -> Iterator[list[int]]:
    """Gives `count` consecutive free ports; from `first` on if that is given.

    No other cluster chooses them as long as the block runs. Raises SlurmError if a wanted port is
    in use, or if there are none.
    """
    with contextlib.ExitStack() as held:
        if first:
            yield _hold_wanted(range(first, first + count), held)
        else:
            yield _hold_any(count, among, held)


def is_free_port(port: int) -> bool:
    """Says whether both the loopback and the wildcard address of a TCP port can be bound."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def _hold_wanted(ports: range, held: contextlib.ExitStack) -> list[int]:
    if ports.start < 1 or ports.stop > 65536:
        raise SlurmError(
            f"port {ports.start} leaves no {len(ports)} ports in 1-65535; choose another"
        )
    for port in ports:
        if not _try_hold([port], held):
            raise SlurmError(f"port {port} is in use; leave the port to us or choose another")
    return list(ports)


def _hold_any(count: int, among: range, held: contextlib.ExitStack) -> list[int]:
    for start in range(among.start, among.stop - count + 1, count):
        ports = list(range(start, start + count))
        if _try_hold(ports, held):
            return ports
    raise SlurmError(
        f"no {count} free ports in a row in {among.start}-{among.stop - 1}; end what uses them"
    )


def _try_hold(ports: Sequence[int], held: contextlib.ExitStack) -> bool:
    """Holds all of these ports, or none. First the name, then the look: who held the name before
    listens by now.
    """
    with contextlib.ExitStack() as these:
        for port in ports:
            name = these.enter_context(socket.socket(socket.AF_UNIX))
            try:
                name.bind(f"\0hydro-port-{port}")
            except OSError:
                return False
            if not is_free_port(port):
                return False
        held.enter_context(these.pop_all())
    return True
