"""lanes.conf: what it may say, and the sentence for each thing that is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

import site_config
from slurm_plugin.lane_settings import (
    SettingsError,
    constrains_devices,
    constraint_problem,
    parse_settings,
    read_settings,
)

SHIPPED = Path(site_config.__file__).parent / "hydro/lanes.conf"


def test_the_shipped_file_says_the_defaults() -> None:
    shipped = parse_settings(SHIPPED.read_text(), "lanes.conf")
    assert shipped == parse_settings("[lanes]\n", "lanes.conf")
    assert (shipped.page_dir, shipped.num_devices, shipped.cpu_cores) == ("/run/hydro", 8, ())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("colour = red", "unknown key 'colour'; the keys are page_dir, device"),
        ("page_dir = run", "page_dir=run is not an absolute path"),
        ("device = /dev/nvidia0", "is not a path with one %d"),
        ("device = /dev/%d%s", "is not a path with one %d"),
        ("num_devices = 0", "num_devices=0 is not between 1 and 64"),
        ("num_devices = many", "num_devices=many is not a whole number"),
        ("cpu_cores = 0,1", "cpu_cores names 2 cores for 8 devices"),
        ("cpu_cores = a", "cpu_cores=a is not a comma list"),
        ("grace_s = 60", "grace_s=60 is not between 0 and 3.0 seconds"),
        ("tenant_partition = a b", "tenant_partition=a b is not the name of a partition"),
        ("constrain_devices = maybe", "constrain_devices=maybe is none of auto, yes, no"),
        ("job_gpus = perhaps", "job_gpus=perhaps is neither yes nor no"),
        ("no equals sign", "not a section [lanes] of key = value lines"),
    ],
)
def test_each_mistake_has_its_sentence(line: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(f"[lanes]\n{line}\n", "/etc/lanes.conf")
    assert str(caught.value).startswith("/etc/lanes.conf: ")
    assert problem in str(caught.value)


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lanes.conf"
    path.write_text("[lanes]\n")
    path.chmod(0o666)
    with pytest.raises(SettingsError, match="others than root can write it"):
        read_settings(str(path))
    link = tmp_path / "link.conf"
    link.symlink_to(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(str(link))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ConstrainDevices=yes\n", True),
        ("constraindevices = YES # all\n", True),
        ("ConstrainDevices=no\n", False),
        ("#ConstrainDevices=yes\n", False),
        ("ConstrainDevices=yes\nConstrainDevices=no\n", False),
        ("", False),
    ],
)
def test_cgroup_conf_is_read_as_slurm_reads_it(tmp_path: Path, text: str, answer: bool) -> None:
    path = tmp_path / "cgroup.conf"
    path.write_text(text)
    assert constrains_devices(str(path)) is answer


def test_without_a_device_cgroup_nothing_is_lent_unless_the_admin_says_so(tmp_path: Path) -> None:
    (tmp_path / "hydro").mkdir()
    config = str(tmp_path / "hydro/lanes.conf")
    auto = parse_settings("[lanes]\n", config)
    cgroup_conf = tmp_path / "cgroup.conf"
    cgroup_conf.write_text("ConstrainDevices=no\n")
    problem = constraint_problem(auto, config)
    assert problem.startswith(f"{cgroup_conf} does not say ConstrainDevices=yes")
    cgroup_conf.write_text("ConstrainDevices=yes\n")
    assert constraint_problem(auto, config) == ""
    assert constraint_problem(auto._replace(constrain_devices="yes"), "/x/y") == ""
    assert constraint_problem(auto._replace(constrain_devices="unenforced"), "/x/y") == ""
    assert "constrain_devices=no" in constraint_problem(
        auto._replace(constrain_devices="no"), config
    )
