"""Root's settings of a node, as the embedded cluster writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devcluster import plugin
from hydro_hpc.devcluster.cgroups import CgroupSupport
from hydro_hpc.devcluster.plugin import install_plugin, lanes_conf
from hydro_hpc.devcluster.slurm_conf import HostFacts
from hydro_hpc.devcluster.spec import ClusterSpec
from hydro_hpc.errors import SlurmError
from slurm_plugin.lane_settings import Settings, parse_settings

V1 = CgroupSupport(version=1, v1_controllers=("freezer", "devices"))


def facts(support: CgroupSupport = V1, version: tuple[int, int] = (22, 5)) -> HostFacts:
    return HostFacts(slurm_version=version, memory_mib=1000, cgroups=support, ports=[1, 2, 3])


def settings(spec: ClusterSpec, node: str, given: HostFacts, cores: list[int]) -> Settings:
    return parse_settings(lanes_conf(spec, node, given, cores=cores), "lanes.conf")


def test_devices_of_all_nodes_stand_for_one_core_after_the_other() -> None:
    spec = ClusterSpec(nodes=2, devices_per_node=2)
    assert settings(spec, "n1", facts(), [4, 5, 6]).cpu_cores == (4, 5)
    assert settings(spec, "n2", facts(), [4, 5, 6]).cpu_cores == (6, 4)


def test_settings_name_the_made_devices() -> None:
    found = settings(ClusterSpec(devices_per_node=2), "n1", facts(), [0])
    assert (found.device, found.num_devices, found.page_dir) == ("/dev/hydro%d", 2, "/run/hydro")
    assert found.tenant_partition == "bubble"


def test_without_a_device_cgroup_only_a_node_of_one_device_lends() -> None:
    nothing = facts(CgroupSupport(version=0))
    one, two = ClusterSpec(devices_per_node=1), ClusterSpec(devices_per_node=2)
    assert settings(one, "n1", nothing, [0]).constrain_devices == "unenforced"
    assert settings(two, "n1", nothing, [0]).constrain_devices == "no"
    assert settings(two, "n1", facts(), [0]).constrain_devices == "yes"


@pytest.mark.parametrize(("version", "expected"), [((22, 5), False), ((24, 5), True)])
def test_prolog_trusts_job_gpus_from_24_05_on(version: tuple[int, int], expected: bool) -> None:
    assert settings(ClusterSpec(), "n1", facts(V1, version), [0]).job_gpus is expected


def test_a_missing_piece_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "SOURCE", tmp_path / "nowhere")
    with pytest.raises(SlurmError, match=r"hydro\.lua is missing"):
        install_plugin(ClusterSpec(directory=tmp_path), facts(), cores=[0])


@pytest.mark.slurm
def test_a_plugin_that_does_not_compile_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for place in ("job_submit/hydro.lua", "job_submit/job_submit.lua"):
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        (source / place).touch()
    for place in ("prolog.d/50-hydro", "epilog.d/50-hydro", "spank/Makefile"):
        (source / place).parent.mkdir(parents=True)
        (source / place).write_text("all:\n\t@echo 'error: no spank.h' >&2; exit 1\n")
    monkeypatch.setattr(plugin, "SOURCE", source)
    with pytest.raises(SlurmError, match=r"does not compile \(error: no spank\.h\)"):
        install_plugin(ClusterSpec(directory=tmp_path), facts(), cores=[0])
