"""Which cgroups a host offers, and what is said about those it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devcluster.cgroups import Cgroups, CgroupSupport, detect_cgroups
from hydro_hpc.errors import SlurmError


def make(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_unified_hierarchy_is_v2_and_enforces_everything(tmp_path: Path) -> None:
    support = detect_cgroups(make(tmp_path, "cgroup.controllers"))
    assert support.version == 2
    assert support.not_enforced == []


def test_hybrid_host_counts_as_v1(tmp_path: Path) -> None:
    files = ("unified/cgroup.controllers", "freezer/cgroup.procs", "devices/cgroup.procs")
    support = detect_cgroups(make(tmp_path, *files))
    assert support == CgroupSupport(version=1, v1_controllers=("freezer", "devices"))
    assert support.not_enforced == []


def test_what_the_kernel_lacks_is_said(tmp_path: Path) -> None:
    support = detect_cgroups(make(tmp_path, "freezer/cgroup.procs"))
    assert not support.constrains_devices
    assert [text.split(":")[0] for text in support.not_enforced] == ["devices"]
    nothing = detect_cgroups(make(tmp_path / "empty", "x"))
    assert [text.split(":")[0] for text in nothing.not_enforced] == ["devices", "processes"]


def test_directories_are_made_per_member_and_removed(tmp_path: Path) -> None:
    root = make(tmp_path, "freezer/cgroup.procs", "devices/cgroup.procs")
    cgroups = Cgroups("hydro-x", detect_cgroups(root), root)
    cgroups.create(["login", "n1"])
    assert all(path.is_dir() for path in cgroups.joined_by_daemons("n1"))
    assert cgroups.namespace_roots("n1") == [
        root / "freezer/hydro-x/n1",
        root / "devices/hydro-x/n1",
    ]
    cgroups.remove()
    assert sorted(path.name for path in root.rglob("*") if path.is_dir()) == ["devices", "freezer"]


def test_v2_keeps_processes_in_a_leaf_beside_slurms_slice(tmp_path: Path) -> None:
    cgroups = Cgroups("hydro-x", CgroupSupport(version=2), tmp_path)
    cgroups.create(["n1"])
    assert sorted(path.name for path in (tmp_path / "hydro-x/n1").iterdir()) == [
        "daemons",
        "system.slice",
    ]


def test_processes_of_all_levels_are_found(tmp_path: Path) -> None:
    cgroups = Cgroups("hydro-x", CgroupSupport(version=2), tmp_path)
    make(tmp_path, "hydro-x/n1/daemons/cgroup.procs", "hydro-x/n1/system.slice/job/cgroup.procs")
    (tmp_path / "hydro-x/n1/daemons/cgroup.procs").write_text("7\n8\n")
    (tmp_path / "hydro-x/n1/system.slice/job/cgroup.procs").write_text("9\n")
    assert cgroups.pids() == {7, 8, 9}


def test_a_read_only_hierarchy_is_said() -> None:
    cgroups = Cgroups("hydro-x", CgroupSupport(version=2), Path("/proc/sys"))
    with pytest.raises(SlurmError, match="cannot be made"):
        cgroups.create(["n1"])
