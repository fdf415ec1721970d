"""What a site copies: the fragments agree with each other, and the templates are accepted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import sbatch_templates
import site_config
from hydro_hpc.devcluster import Cluster
from hydro_hpc.devcluster.slurm_conf import check_gres_order

SITE = Path(site_config.__file__).parent
TEMPLATES = sorted(Path(sbatch_templates.__file__).parent.glob("*.sbatch"))
SMALL = ("--hold", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem-per-cpu=100M")


def test_bubble_comes_before_gpu() -> None:
    check_gres_order((SITE / "slurm.conf.d/hydro.conf").read_text())


def test_each_bubble_is_typed_by_its_devices_index() -> None:
    text = (SITE / "gres.conf.d/hydro.conf").read_text()
    found = re.findall(r"^Name=bubble Type=g(\d+) File=/dev/nvidia(\d+)$", text, re.MULTILINE)
    assert [int(kind) for kind, _ in found] == list(range(8))
    assert all(kind == device for kind, device in found)


def test_the_plugin_is_optional() -> None:
    text = (SITE / "plugstack.conf.d/hydro.conf").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == ["optional hydro.so config=/etc/slurm/hydro/lanes.conf"]


def test_there_are_three_templates_and_the_shell_can_read_them() -> None:
    assert [path.name for path in TEMPLATES] == [
        "gang_in_allocation.sbatch",
        "primary.sbatch",
        "study.sbatch",
    ]
    for path in TEMPLATES:
        subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.slurm
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_sbatch_takes_each_template(cluster: Cluster, template: Path) -> None:
    is_study = template.stem == "study"
    options = ["--bubbles=60"] if is_study else [*SMALL, "--gres=gpu:1"]
    done = cluster.run(["sbatch", "--parsable", *options], input=template.read_text())
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    try:
        text = cluster.run(["scontrol", "show", "job", job]).stdout
        assert ("AdminComment=hydro:want=60-60" if is_study else "AdminComment=hydro:lend") in text
    finally:
        cluster.run(["scancel", job])
