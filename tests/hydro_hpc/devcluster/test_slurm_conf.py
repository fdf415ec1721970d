"""The generated Slurm configuration, and the check of a given one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devcluster.cgroups import CgroupSupport
from hydro_hpc.devcluster.slurm_conf import (
    HostFacts,
    cgroup_conf,
    check_gres_order,
    gres_conf,
    slurm_conf,
)
from hydro_hpc.devcluster.spec import ClusterSpec
from hydro_hpc.errors import ConfigError

SPEC = ClusterSpec(nodes=2, devices_per_node=2, directory=Path("/var/lib/x"))
V1 = CgroupSupport(version=1, v1_controllers=("freezer", "devices"))


def facts(
    version: tuple[int, int] = (22, 5), support: CgroupSupport = V1, memory_mib: int = 20000
) -> HostFacts:
    return HostFacts(
        slurm_version=version, memory_mib=memory_mib, cgroups=support, ports=[7000, 7001, 7002]
    )


def keys(text: str) -> dict[str, str]:
    pairs = [line.partition("=") for line in text.splitlines() if " " not in line.split("=")[0]]
    return {name: value for name, _, value in pairs}


def nodes(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.startswith("NodeName=")]
    return [dict(part.split("=", 1) for part in line.split()) for line in lines]


def test_each_node_has_its_own_port_and_typed_bubbles_in_device_order() -> None:
    found = nodes(slurm_conf(SPEC, facts()))
    assert [(node["NodeName"], node["Port"]) for node in found] == [("n1", "7001"), ("n2", "7002")]
    assert {node["Gres"] for node in found} == {"gpu:2,bubble:g0:1,bubble:g1:1"}


def test_generated_configuration_passes_the_gres_check() -> None:
    check_gres_order(slurm_conf(SPEC, facts()))


def test_nodes_together_declare_less_memory_than_the_host_has() -> None:
    found = nodes(slurm_conf(SPEC, facts(memory_mib=20000)))
    assert 0 < sum(int(node["RealMemory"]) for node in found) < 20000


def test_bubble_and_gpu_name_the_same_files_in_the_same_order() -> None:
    lines = gres_conf(SPEC, facts()).splitlines()
    files = {
        name: [line.partition("File=")[2].split()[0] for line in lines if f"Name={name}" in line]
        for name in ("bubble", "gpu")
    }
    assert files["bubble"] == files["gpu"] == ["/dev/hydro0", "/dev/hydro1"]


@pytest.mark.parametrize(("version", "is_explicit"), [((22, 5), False), ((23, 2), True)])
def test_bubbles_are_explicit_where_slurm_knows_the_flag(
    version: tuple[int, int], is_explicit: bool
) -> None:
    assert ("Flags=explicit" in gres_conf(SPEC, facts(version))) == is_explicit


@pytest.mark.parametrize(
    ("support", "tracking", "task"),
    [
        (V1, "proctrack/cgroup", "task/cgroup"),
        (CgroupSupport(version=2), "proctrack/cgroup", "task/cgroup"),
        (
            CgroupSupport(version=1, v1_controllers=("freezer",)),
            "proctrack/cgroup",
            "task/none",
        ),
        (
            CgroupSupport(version=1, v1_controllers=("devices",)),
            "proctrack/linuxproc",
            "task/cgroup",
        ),
        (CgroupSupport(version=0), "proctrack/linuxproc", "task/none"),
    ],
)
def test_slurm_uses_just_the_cgroups_that_are_there(
    support: CgroupSupport, tracking: str, task: str
) -> None:
    found = keys(slurm_conf(SPEC, facts(support=support)))
    assert found["ProctrackType"] == tracking
    assert found["TaskPlugin"] == task
    constrains = keys(cgroup_conf(facts(support=support))).get("ConstrainDevices", "no")
    assert (constrains == "yes") == (task == "task/cgroup")


def test_v2_never_asks_systemd() -> None:
    assert "IgnoreSystemd=yes" in cgroup_conf(facts(support=CgroupSupport(version=2)))


@pytest.mark.parametrize(
    ("version", "plugin"), [((22, 5), "cgroup/v1"), ((24, 5), "disabled"), ((25, 11), "disabled")]
)
def test_without_cgroups_the_plugin_is_one_that_touches_none(
    version: tuple[int, int], plugin: str
) -> None:
    text = cgroup_conf(facts(version, support=CgroupSupport(version=0)))
    assert text == f"CgroupPlugin={plugin}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("GresTypes=gpu,bubble\n", "'gpu' comes before 'bubble'"),
        ("GresTypes=bubble,gpu\nGresTypes=gpu,bubble # the last one counts\n", "comes before"),
        ("  grestypes = gpu\n", "does not name 'bubble'"),
        ("GresTypes=bubble\n", "does not name 'gpu'"),
        ("#GresTypes=bubble,gpu\n", "does not name 'bubble'"),
        ("", "does not name 'bubble'"),
    ],
)
def test_wrong_gres_types_are_refused_with_the_fix(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        check_gres_order(text)
    assert "write GresTypes=bubble,gpu" in str(caught.value)


def test_other_gres_types_may_stand_anywhere() -> None:
    check_gres_order("GresTypes=nic,bubble,shard,gpu\n")
