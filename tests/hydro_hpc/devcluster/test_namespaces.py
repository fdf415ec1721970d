"""The plans of the namespaces: what each one has of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hydro_hpc.devcluster.cgroups import Cgroups, CgroupSupport
from hydro_hpc.devcluster.namespaces import (
    LOCAL_MAJORS,
    Plan,
    covering,
    free_major,
    login_plan,
    node_plan,
    page_dir_mib,
)
from hydro_hpc.devcluster.spec import ClusterSpec
from hydro_hpc.errors import SlurmError
from hydro_hpc.page_layout import SIZES

V1 = CgroupSupport(version=1, v1_controllers=("freezer", "devices"))


def operations(plan: Plan, name: str) -> list[list[Any]]:
    return [operation[1:] for operation in plan["operations"] if operation[0] == name]


@pytest.fixture
def spec(tmp_path: Path) -> ClusterSpec:
    directory = tmp_path / "cluster"
    directory.mkdir(mode=0o755)
    return ClusterSpec(nodes=2, devices_per_node=2, directory=directory)


def test_only_nodes_have_the_page_directory_and_devices(spec: ClusterSpec) -> None:
    cgroups = Cgroups("hydro-x", V1)
    login = login_plan(spec, cgroups)
    node = node_plan(spec, "n2", cgroups, major=60, plain=[])
    mounted = [path for path, _ in operations(node, "tmpfs")]
    assert "/run/hydro" in mounted
    assert "/run/hydro" not in [path for path, _ in operations(login, "tmpfs")]
    assert operations(login, "mknod") == []
    assert operations(node, "mknod") == [
        ["/dev/hydro0", 60, 2, 0o666],
        ["/dev/hydro1", 60, 3, 0o666],
    ]


def test_page_directory_holds_the_pages_of_all_devices(spec: ClusterSpec) -> None:
    assert page_dir_mib(spec) * 2**20 > spec.devices_per_node * sum(SIZES.values())


def test_every_namespace_hides_the_hosts_run(spec: ClusterSpec) -> None:
    plan = login_plan(spec, Cgroups("hydro-x", V1))
    covered = [root for roots, _ in operations(plan, "cover") for root, _ in roots]
    assert any(Path("/run").is_relative_to(root) for root in covered)


def test_the_clusters_directory_shows_through_whatever_covers_it(spec: ClusterSpec) -> None:
    _, roots, keep = covering(spec, {str(spec.directory.parent): "mode=0755"})
    assert any(spec.directory.is_relative_to(root) for root, _ in roots)
    assert str(spec.directory) in keep


def test_cgroups_are_mounted_afresh_on_v1_and_v2(spec: ClusterSpec) -> None:
    v1 = login_plan(spec, Cgroups("hydro-x", V1))
    v2 = login_plan(spec, Cgroups("hydro-x", CgroupSupport(version=2)))
    none = login_plan(spec, Cgroups("hydro-x", CgroupSupport(version=0)))
    assert [controller for _, controller in operations(v1, "cgroup")] == ["freezer", "devices"]
    assert operations(v2, "cgroup") == [["/sys/fs/cgroup", ""]]
    assert operations(none, "cgroup") == []
    assert v2["joined_by_daemons"] == ["/sys/fs/cgroup/hydro-x/login/daemons"]


def test_major_number_of_no_driver_is_chosen() -> None:
    text = "Character devices:\n  1 mem\n 60 local\n\nBlock devices:\n 61 zram\n"
    assert free_major(text) == 61


def test_no_free_major_number_is_said() -> None:
    text = "Character devices:\n" + "".join(f"{number:3} x\n" for number in LOCAL_MAJORS)
    with pytest.raises(SlurmError, match="unload a driver"):
        free_major(text)
