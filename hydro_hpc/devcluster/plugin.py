"""Installing the Slurm plugin into a cluster's directory, as a site would into /etc/slurm."""

from __future__ import annotations

from pathlib import Path

from hydro_hpc.devcluster.spec import ClusterSpec

__all__ = ["install_plugin"]


def install_plugin(directory: Path, spec: ClusterSpec) -> bool:
    """Returns whether there was a plugin to install."""
    del directory, spec
    return False
