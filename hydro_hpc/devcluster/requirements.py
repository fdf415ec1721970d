"""What the host must have before a cluster can start, checked first and reported all at once."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import Final

from hydro_hpc.errors import ConfigError, SlurmError

# Program -> Debian package.
PROGRAMS: Final = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "scontrol": "slurm-client",
    "munged": "munge",
    "make": "make",
    "gcc": "gcc",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FIRST_PORT: Final = 21000  # below the kernel's ephemeral ports
LAST_PORT: Final = 29999

Which = Callable[[str], str | None]


def find_program(name: str) -> str | None:
    """Returns where a system program is, whatever the caller's PATH."""
    return shutil.which(name, path=SEARCH_PATH)


def missing_packages(which: Which = find_program) -> list[str]:
    """Returns the Debian packages whose programs are not there."""
    return sorted({package for program, package in PROGRAMS.items() if which(program) is None})


def check_host(
    *,
    system: str | None = None,
    euid: int | None = None,
    which: Which = find_program,
) -> None:
    """Raises ConfigError or SlurmError if no cluster can be started here."""
    if (system or platform.system()) != "Linux":
        raise ConfigError(
            "the embedded cluster needs Linux's namespaces; use a Linux machine or VM"
        )
    if (os.geteuid() if euid is None else euid) != 0:
        raise ConfigError("the embedded cluster needs root; run: sudo hydro cluster up")
    if missing := missing_packages(which):
        raise SlurmError(
            f"the embedded cluster needs the packages {', '.join(missing)}, which are missing or "
            "half-installed; run: make setup"
        )


def check_namespaces() -> None:
    """Raises ConfigError if this root may make no namespaces (an unprivileged container)."""
    done = subprocess.run(
        ["unshare", "--mount", "--uts", "--cgroup", "true"], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise ConfigError(
            f"this root may not make namespaces ({done.stderr.strip()}); run on the host itself or "
            "in a container started with --privileged"
        )


def read_slurm_version() -> str:
    """Returns e.g. `22.05.8`. Raises SlurmError if slurmctld does not say."""
    done = subprocess.run(
        [find_program("slurmctld") or "slurmctld", "-V"], capture_output=True, text=True
    )
    found = re.search(r"(\d+\.\d+\.\d+)", done.stdout)
    if not found:
        raise SlurmError(f"slurmctld -V failed: {done.stderr.strip()}; reinstall package slurmctld")
    return found[1]


def version_pair(version: str) -> tuple[int, int]:
    year, month = version.split(".")[:2]
    return int(year), int(month)


def memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


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


def choose_ports(
    count: int, *, first: int = 0, is_free: Callable[[int], bool] = is_free_port
) -> list[int]:
    """Returns `count` consecutive free ports; from `first` on if that is given.

    Raises SlurmError if a wanted port is in use, or if there are none.
    """
    if first:
        for port in range(first, first + count):
            if not is_free(port):
                raise SlurmError(f"port {port} is in use; leave the port to us or choose another")
        return list(range(first, first + count))
    for start in range(FIRST_PORT, LAST_PORT - count, count):
        ports = list(range(start, start + count))
        if all(map(is_free, ports)):
            return ports
    raise SlurmError(
        f"no {count} free ports in a row in {FIRST_PORT}-{LAST_PORT}; end what uses them"
    )
