"""Which cgroup a command is frozen in, if any."""

from __future__ import annotations

from pathlib import Path

from hydro_hpc.trial.freezer import Freezer, Place, choose, find_places


def place(**changes: object) -> Place:
    facts = {"version": 2, "path": "/user", "directory": "/cg/user", "is_writable": True}
    return Place(**{**facts, **changes})  # type: ignore[arg-type]


def test_second_version_is_preferred_since_its_frozen_processes_can_be_killed() -> None:
    assert choose([place(version=1), place()]) == place()
    assert choose([place(version=1), place(is_writable=False)]) == place(version=1)


def test_no_group_is_made_where_slurm_would_not_see_its_processes() -> None:
    slurm = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
    assert choose([place(path=slurm)]) is None
    assert choose([place(path="/slurm/uid_1/job_7/step_batch", version=1)]) is None


def test_without_a_writable_group_signals_must_do() -> None:
    assert choose([]) is None
    assert choose([place(is_writable=False)]) is None


def test_places_are_those_of_the_freezing_hierarchies(tmp_path: Path) -> None:
    for name in ("v2/inner", "v1", "memory"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "v2/inner/cgroup.procs").touch()
    own = "9:memory:/x\n6:cpu,freezer:/\n1:name=systemd:/\n0::/base/inner\n"
    mounts = "\n".join(
        [
            f"1 0 0:1 / {tmp_path}/v1 rw - cgroup cgroup rw,cpu,freezer",
            f"2 0 0:2 / {tmp_path}/memory rw - cgroup cgroup rw,memory",
            f"3 0 0:3 /base {tmp_path}/v2 rw - cgroup2 cgroup2 rw",
        ]
    )
    first, second = find_places(own, mounts)
    v1, v2 = f"{tmp_path}/v1", f"{tmp_path}/v2/inner"
    assert first == Place(version=1, path="/", directory=v1, is_writable=False)
    assert second == Place(version=2, path="/base/inner", directory=v2, is_writable=True)


def test_each_version_is_frozen_by_its_own_file(tmp_path: Path) -> None:
    freezer = Freezer(place(directory=str(tmp_path)), "two")
    freezer.pause()
    assert (tmp_path / "two/cgroup.freeze").read_text() == "1"
    freezer = Freezer(place(directory=str(tmp_path), version=1), "one")
    freezer.pause()
    assert (tmp_path / "one/freezer.state").read_text() == "FROZEN"
    freezer.resume()
    assert (tmp_path / "one/freezer.state").read_text() == "THAWED"
