"""What the host must have before a cluster can start, checked first and reported all at once."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hydro_hpc.errors import ConfigError, SlurmError

# What has to be there -> its Debian package. Files are patterns, of which one has to match.
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
FILES: Final = {
    ("/etc/slurm",): "slurm-client",
    ("/usr/bin/python3",): "python3",  # root's part in prologs
    ("/usr/include/slurm/spank.h",): "libslurm-dev",
    ("/usr/lib/*/libpmix.so", "/usr/lib64/libpmix.so"): "libpmix-dev",
}
SETUP_SCRIPT: Final = Path(__file__).parent / "setup.sh"
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Which = Callable[[str], str | None]
Exists = Callable[[str], bool]


def find_program(name: str) -> str | None:
    """Returns where a system program is, whatever the caller's PATH."""
    return shutil.which(name, path=SEARCH_PATH)


def matches_any_file(pattern: str) -> bool:
    return bool(glob.glob(pattern))


def missing_packages(which: Which = find_program, exists: Exists = matches_any_file) -> list[str]:
    """Returns the Debian packages of which something is not there."""
    missing = {package for program, package in PROGRAMS.items() if which(program) is None}
    missing |= {package for patterns, package in FILES.items() if not any(map(exists, patterns))}
    return sorted(missing)


def check_host(
    *,
    system: str | None = None,
    euid: int | None = None,
    which: Which = find_program,
    exists: Exists = matches_any_file,
) -> None:
    """Raises ConfigError or SlurmError if no cluster can be started here."""
    if (system or platform.system()) != "Linux":
        raise ConfigError(
            "the embedded cluster needs Linux's namespaces; use a Linux machine or VM"
        )
    if (os.geteuid() if euid is None else euid) != 0:
        raise ConfigError("the embedded cluster needs root; run the same command with sudo")
    if missing := missing_packages(which, exists):
        raise SlurmError(
            f"the embedded cluster needs the packages {', '.join(missing)}, which are missing or "
            f"half-installed; run: sh {SETUP_SCRIPT}"
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
