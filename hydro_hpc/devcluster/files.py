"""Writing the files of a cluster that is about to start."""

from __future__ import annotations

import os
import secrets
import shutil

from hydro_hpc.devcluster.host_etc import write_host_etc
from hydro_hpc.devcluster.slurm_conf import (
    SLURM_USER,
    HostFacts,
    cgroup_conf,
    check_gres_order,
    gres_conf,
    slurm_conf,
)
from hydro_hpc.devcluster.spec import ClusterSpec, Layout

MUNGE_KEY_BYTES = 128


def write_files(spec: ClusterSpec, facts: HostFacts) -> None:
    """Makes all files and directories with the owners they need; homes may be there already."""
    layout = Layout(spec.directory)
    for path in (layout.etc, layout.log, layout.munge, layout.slurm_state):
        path.mkdir(parents=True, exist_ok=True)
    for name in spec.node_names:
        (layout.node(name) / "spool").mkdir(parents=True)
        (layout.node(name) / "tmp").mkdir()
    _write_homes(layout, write_host_etc(spec))
    _write_slurm_conf(layout, spec, facts)
    layout.munge_key.touch(mode=0o400)
    layout.munge_key.write_bytes(secrets.token_bytes(MUNGE_KEY_BYTES))
    slurmctld_log = layout.log / "slurmctld.log"
    slurmctld_log.touch()
    for path in (layout.controller, layout.slurm_state, slurmctld_log):
        shutil.chown(path, SLURM_USER, SLURM_USER)


def _write_homes(layout: Layout, uids: dict[str, int]) -> None:
    for user, uid in uids.items():
        home = layout.home(user)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)
        os.chown(home, uid, uid)


def _write_slurm_conf(layout: Layout, spec: ClusterSpec, facts: HostFacts) -> None:
    text = slurm_conf(spec, facts)
    check_gres_order(text)
    (layout.etc / "slurm.conf").write_text(text)
    (layout.etc / "gres.conf").write_text(gres_conf(spec, facts))
    (layout.etc / "cgroup.conf").write_text(cgroup_conf(facts))
