"""Builds hydro-lanes.pyz: root's program in one file that `python3 -I` runs with nothing
installed.

`python -m slurm_plugin.build_lanes FILE`
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Final

MEMBERS: Final = (
    "hydro_hpc/identity.py",
    "hydro_hpc/page.py",
    "hydro_hpc/page_layout.py",
    "slurm_plugin/eviction.py",
    "slurm_plugin/lane_files.py",
    "slurm_plugin/lane_settings.py",
    "slurm_plugin/lanes.py",
    "slurm_plugin/step_processes.py",
    "slurm_plugin/study_beside.py",
)
PACKAGES: Final = ("hydro_hpc/__init__.py", "slurm_plugin/__init__.py")  # empty in there
_MAIN: Final = """\
import sys
if sys.argv[1:2] == ["start-study"]:  # the only thing that it does for a user
    from slurm_plugin.study_beside import main
else:
    from slurm_plugin.lanes import main
sys.exit(main(sys.argv[1:]))
"""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


def build(target: Path) -> Path:
    """Writes the zipapp to `target`, whole or not at all, and returns it."""
    root = Path(__file__).parent.parent
    fresh = target.with_name(f"{target.name}.new")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _MAIN)
        for package in PACKAGES:
            archive.writestr(zipfile.ZipInfo(package, _EPOCH), "")
        for member in MEMBERS:
            archive.writestr(zipfile.ZipInfo(member, _EPOCH), (root / member).read_text("utf-8"))
    fresh.chmod(0o644)
    fresh.rename(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m slurm_plugin.build_lanes FILE")
    print(build(Path(sys.argv[1])))
