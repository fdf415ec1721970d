"""Installing the Slurm plugin into a cluster's directory, as a site would into /etc/slurm."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import slurm_plugin
from hydro_hpc.devcluster.cgroups import CgroupSupport
from hydro_hpc.devcluster.namespaces import DEVICE_PREFIX
from hydro_hpc.devcluster.processes import ROOT_ENVIRONMENT
from hydro_hpc.devcluster.slurm_conf import TENANT_PARTITION, HostFacts
from hydro_hpc.devcluster.spec import PAGE_DIR, ClusterSpec, Layout
from hydro_hpc.errors import SlurmError
from slurm_plugin.build_lanes import build

SOURCE: Final = Path(slurm_plugin.__file__).parent
INSTALLED: Final = Path("/etc/slurm")  # where Layout.etc is seen inside a namespace
PLUGIN_DIR: Final = INSTALLED / "hydro"
ROOT_PYTHON: Final = "/usr/bin/python3"
JOB_GPUS_SINCE: Final = (24, 5)  # SLURM_JOB_GPUS in a prolog can be relied on
COMPILE_S: Final = 120
# Source -> place below the directory that becomes /etc/slurm, and mode.
COPIED: Final = (
    ("job_submit/hydro.lua", "hydro/hydro.lua", 0o644),
    ("job_submit/job_submit.lua", "job_submit.lua", 0o644),
    ("prolog.d/50-hydro", "prolog.d/50-hydro", 0o755),
    ("epilog.d/50-hydro", "epilog.d/50-hydro", 0o755),
)


def install_plugin(spec: ClusterSpec, facts: HostFacts, *, cores: Sequence[int]) -> None:
    """Compiles and copies every piece; `cores`: those that devices stand for, in order.

    Raises SlurmError if a piece is missing or does not compile.
    """
    layout = Layout(spec.directory)
    (layout.etc / "hydro").mkdir(parents=True)
    for source, place, mode in COPIED:
        _copy(SOURCE / source, layout.etc / place, mode)
    _compile(layout.etc / "hydro")
    build(layout.etc / "hydro/hydro-lanes.pyz")
    (layout.etc / "plugstack.conf").write_text(
        f"optional {PLUGIN_DIR}/hydro.so config={PLUGIN_DIR}/lanes.conf\n"
    )
    for name in spec.node_names:
        layout.lanes_conf(name).write_text(lanes_conf(spec, name, facts, cores=cores))
    # A node's own file is mounted over this one, which the login side sees.
    shutil.copy(layout.lanes_conf(spec.node_names[0]), layout.etc / "hydro/lanes.conf")


def _copy(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise SlurmError(f"{source} is missing; install hydro-hpc again, whole") from None
    target.chmod(mode)


def _compile(directory: Path) -> None:
    """Makes hydro.so in `directory`; nothing is written beside the sources."""
    command = ["make", "-s", "-C", str(SOURCE / "spank"), f"BUILD={directory}"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=ROOT_ENVIRONMENT,
        timeout=COMPILE_S,
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "rror" in line]
        raise SlurmError(
            f"the SPANK plugin does not compile ({(errors or ['make failed'])[0]}); see: "
            f"{' '.join(command[:-1])} BUILD=/tmp"
        )


def core_of(spec: ClusterSpec, node: str, device: int, *, cores: Sequence[int]) -> int:
    """Returns the core that a node's device stands for; they repeat when there are too few."""
    number = spec.node_names.index(node) * spec.devices_per_node + device
    return cores[number % len(cores)]


def lanes_conf(spec: ClusterSpec, node: str, facts: HostFacts, *, cores: Sequence[int]) -> str:
    """Returns root's settings of one node."""
    own_cores = [
        str(core_of(spec, node, device, cores=cores)) for device in range(spec.devices_per_node)
    ]
    job_gpus = "yes" if facts.slurm_version >= JOB_GPUS_SINCE else "no"
    return (
        "[lanes]\n"
        f"page_dir = {PAGE_DIR}\n"
        f"device = /dev/{DEVICE_PREFIX}%d\n"
        f"num_devices = {spec.devices_per_node}\n"
        f"cpu_cores = {','.join(own_cores)}\n"
        f"tenant_partition = {TENANT_PARTITION}\n"
        f"constrain_devices = {_constrain(spec, facts.cgroups)}\n"
        f"job_gpus = {job_gpus}\n"
        f"python = {ROOT_PYTHON}\n"
        f"program = {PLUGIN_DIR}/hydro-lanes.pyz\n"
    )


def _constrain(spec: ClusterSpec, support: CgroupSupport) -> str:
    """Without a device cgroup only a node of one device knows which one a job holds."""
    if support.constrains_devices:
        return "yes"
    return "unenforced" if spec.devices_per_node == 1 else "no"
