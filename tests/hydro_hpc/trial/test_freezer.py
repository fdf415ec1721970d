"""Which cgroup a command is frozen in, if any."""

from __future__ import annotations

from pathlib import Path

from hydro_hpc.cgroup import Cgroup, Version
from hydro_hpc.trial.freezer import Freezer, choose, writable


def cgroup(
    *, version: Version = 2, path: str = "/user", directory: Path = Path("/cg/user")
) -> Cgroup:
    return Cgroup(version=version, path=path, mount=Path("/cg"), directory=directory)


def test_second_version_is_preferred_since_its_frozen_processes_can_be_killed() -> None:
    assert choose([cgroup(version=1), cgroup()]) == cgroup()
    assert choose([cgroup(version=1)]) == cgroup(version=1)


def test_no_group_is_made_where_slurm_would_not_see_its_processes() -> None:
    slurm = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
    assert choose([cgroup(path=slurm)]) is None
    assert choose([cgroup(path="/slurm/uid_1/job_7/step_batch", version=1)]) is None


def test_without_a_writable_group_signals_must_do(tmp_path: Path) -> None:
    gone, there = cgroup(directory=tmp_path / "gone"), cgroup(directory=tmp_path)
    (tmp_path / "cgroup.procs").touch()
    assert writable([gone, there]) == [there]
    assert choose(writable([gone])) is None


def test_each_version_is_frozen_by_its_own_file(tmp_path: Path) -> None:
    freezer = Freezer(cgroup(directory=tmp_path), "two")
    freezer.pause()
    assert (tmp_path / "two/cgroup.freeze").read_text() == "1"
    freezer = Freezer(cgroup(directory=tmp_path, version=1), "one")
    freezer.pause()
    assert (tmp_path / "one/freezer.state").read_text() == "FROZEN"
    freezer.resume()
    assert (tmp_path / "one/freezer.state").read_text() == "THAWED"
