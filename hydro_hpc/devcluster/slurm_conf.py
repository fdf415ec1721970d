"""The cluster's Slurm configuration as text. Pure: facts in, files out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hydro_hpc.devcluster.cgroups import CgroupSupport
from hydro_hpc.devcluster.namespaces import device_name
from hydro_hpc.devcluster.spec import LOGIN, ClusterSpec, Layout
from hydro_hpc.errors import ConfigError

CLUSTER_NAME: Final = "hydro"
TENANT_PARTITION: Final = "bubble"
SLURM_USER: Final = "slurm"
EXPLICIT_GRES_SINCE: Final = (23, 2)
NO_CGROUPS_SINCE: Final = (24, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the configuration depends on besides the spec."""

    slurm_version: tuple[int, int]  # e.g. (22, 5)
    memory_mib: int
    cgroups: CgroupSupport
    ports: list[int]  # slurmctld's, then one per node


def first_job_id(port: int) -> int:
    """Returns where the job ids of the cluster with slurmctld at `port` begin.

    Scripts choose a port from their job id (20000 + id % 20000 is common): two clusters on one host
    must not lead to the same one, nor to a port of a cluster.
    """
    return 10_001 + 50 * (port % 50)


def cpus_per_node(spec: ClusterSpec) -> int:
    """Declared CPUs, not the host's: a rank and a gang fit on every device, and users beside."""
    return 4 + 4 * spec.devices_per_node


def node_memory_mib(spec: ClusterSpec, facts: HostFacts) -> int:
    return facts.memory_mib * 9 // 10 // spec.nodes


def gres_text(spec: ClusterSpec) -> str:
    """Returns a node's Gres: `gpu` untyped, `bubble` with one type per device."""
    bubbles = [f"bubble:g{index}:1" for index in range(spec.devices_per_node)]
    return ",".join([f"gpu:{spec.devices_per_node}", *bubbles])


def slurm_conf(spec: ClusterSpec, facts: HostFacts) -> str:
    layout = Layout(spec.directory)
    tracking = "cgroup" if facts.cgroups.tracks_processes else "linuxproc"
    task = "task/cgroup" if facts.cgroups.constrains_devices else "task/none"
    cpus, memory = cpus_per_node(spec), node_memory_mib(spec, facts)
    nodes = ",".join(spec.node_names)
    lines = [
        f"ClusterName={CLUSTER_NAME}",
        f"SlurmctldHost={LOGIN}(127.0.0.1)",
        f"SlurmctldPort={facts.ports[0]}",
        f"FirstJobId={first_job_id(facts.ports[0])}",
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={layout.munge_socket}",
        f"SlurmUser={SLURM_USER}",
        f"StateSaveLocation={layout.slurm_state}",
        f"SlurmctldPidFile={layout.controller}/slurmctld.pid",
        f"SlurmctldLogFile={layout.log}/slurmctld.log",
        f"SlurmdSpoolDir={layout.node('%n')}/spool",
        f"SlurmdPidFile={layout.node('%n')}/slurmd.pid",
        f"SlurmdLogFile={layout.log}/slurmd.%n.log",
        f"TmpFS={layout.node('%n')}/tmp",
        "SlurmctldTimeout=60",
        "SlurmdTimeout=60",
        "KillWait=5",
        "UnkillableStepTimeout=60",
        "ReturnToService=2",
        "MailProg=/bin/true",
        "PropagateResourceLimits=NONE",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "SlurmdParameters=config_overrides",
        f"ProctrackType=proctrack/{tracking}",
        f"TaskPlugin={task}",
        "MpiDefault=none",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "PrologFlags=Alloc,DeferBatch",
        "PrologEpilogTimeout=60",
        "GresTypes=bubble,gpu",
        "JobSubmitPlugins=lua",
        "PlugStackConfig=/etc/slurm/plugstack.conf",
        "Prolog=/etc/slurm/prolog.d/*",
        "Epilog=/etc/slurm/epilog.d/*",
    ]
    for name, port in zip(spec.node_names, facts.ports[1:], strict=True):
        lines.append(
            f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
            f"Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 "
            f"RealMemory={memory} Gres={gres_text(spec)}"
        )
    # A job of a FORCE partition starts only beside jobs of FORCE partitions; :1 shares no core.
    lines += [
        f"PartitionName=main Nodes={nodes} Default=YES OverSubscribe=FORCE:1 "
        f"DefMemPerCPU={memory // (2 * cpus)}",
        f"PartitionName={TENANT_PARTITION} Nodes={nodes} OverSubscribe=FORCE:4 "
        f"DefMemPerCPU={memory // (8 * cpus)}",
    ]
    return "\n".join(lines) + "\n"


def gres_conf(spec: ClusterSpec, facts: HostFacts) -> str:
    """`bubble` and `gpu` in the same device order: Slurm 22.05 grants by index, not by File."""
    explicit = " Flags=explicit" if facts.slurm_version >= EXPLICIT_GRES_SINCE else ""
    nodes = ",".join(spec.node_names)
    lines = ["AutoDetect=off"]
    for index in range(spec.devices_per_node):
        file = f"/dev/{device_name(index)}"
        lines.append(f"NodeName={nodes} Name=bubble Type=g{index} File={file}{explicit}")
    for index in range(spec.devices_per_node):
        lines.append(f"NodeName={nodes} Name=gpu File=/dev/{device_name(index)}")
    return "\n".join(lines) + "\n"


def cgroup_conf(facts: HostFacts) -> str:
    """Cores and memory are not constrained: all nodes stand on the same host's."""
    support = facts.cgroups
    if support.version == 0:
        # Older releases load a plugin always; v1 touches nothing until something is constrained.
        plugin = "disabled" if facts.slurm_version >= NO_CGROUPS_SINCE else "cgroup/v1"
        return f"CgroupPlugin={plugin}\n"
    constrain = "yes" if support.constrains_devices else "no"
    lines = [
        f"CgroupPlugin=cgroup/v{support.version}",
        f"ConstrainDevices={constrain}",
        "ConstrainCores=no",
        "ConstrainRAMSpace=no",
        "ConstrainSwapSpace=no",
    ]
    if support.version == 2:
        lines.append("IgnoreSystemd=yes")
    return "\n".join(lines) + "\n"


def check_gres_order(slurm_conf_text: str) -> None:
    """Raises ConfigError unless `bubble` comes before `gpu` in GresTypes.

    On Slurm 22.05 the device cgroup of a bubble job has its device only in that order.
    """
    found = re.findall(r"(?im)^\s*GresTypes\s*=\s*([^\s#]*)", slurm_conf_text)
    types = found[-1].lower().split(",") if found else []
    for name in ("bubble", "gpu"):
        if name not in types:
            raise ConfigError(
                f"slurm.conf: GresTypes does not name {name!r}; write GresTypes=bubble,gpu and "
                "restart slurmctld and every slurmd"
            )
    if types.index("bubble") > types.index("gpu"):
        raise ConfigError(
            "slurm.conf: 'gpu' comes before 'bubble' in GresTypes, so bubble jobs cannot open the "
            "device; write GresTypes=bubble,gpu and restart slurmctld and every slurmd"
        )
