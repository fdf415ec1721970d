"""A source release from PyPI, unpacked; nothing is built or installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TIMEOUT_S = 60


class NotFetchedError(Exception):
    """pip could not fetch the release; says why."""


def fetch_release(project: str, version: str, *, into: Path) -> Path:
    """Returns the folder of the release below `into`, from PyPI unless it is there already."""
    folder = into / f"{project}-{version}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=into) as name:
        archive = _download(project, version, into=Path(name))
        with tarfile.open(archive) as file:
            file.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 has it
            file.extractall(name)
        os.rename(Path(name) / folder.name, folder)
    return folder


def _download(project: str, version: str, *, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(into)]
    try:
        subprocess.run(
            [*command, f"{project}=={version}"],
            env=os.environ | {"DS_BUILD_OPS": "0"},
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise NotFetchedError(f"pip took more than {TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        raise NotFetchedError(error.stderr.strip().splitlines()[-1]) from error
    return into / f"{project}-{version}.tar.gz"
