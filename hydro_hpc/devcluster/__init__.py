"""The embedded Slurm cluster: real daemons, private to one directory, on one host."""

from hydro_hpc.devcluster.cluster import Cluster
from hydro_hpc.devcluster.commands import add_commands
from hydro_hpc.devcluster.slurm_conf import check_gres_order
from hydro_hpc.devcluster.spec import ClusterSpec, ClusterStatus

__all__ = ["Cluster", "ClusterSpec", "ClusterStatus", "add_commands", "check_gres_order"]
