"""Which host paths cluster users have to reach, and what has to be covered so that they can.

The interpreter or the checkout often lies below a directory that only its owner may traverse (a
home of mode 0700). Nothing is changed on the host: in each namespace such a directory is covered by
an empty tmpfs in which only the needed paths are seen.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import hydro_hpc
from hydro_hpc.errors import ConfigError

ModeOf = Callable[[Path], int]


def needed_paths() -> list[Path]:
    """Returns what a user's job reads: this environment, its base interpreter, our packages."""
    found = [Path(sys.prefix), Path(sys.base_prefix), Path(hydro_hpc.__file__).parent.parent]
    return without_nested({path for given in found for path in (given, given.resolve())})


def without_nested(paths: Iterable[Path]) -> list[Path]:
    """Returns the paths that lie in none of the others, sorted."""
    kept: list[Path] = []
    for path in sorted(paths, key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return sorted(kept)


def mode_of(path: Path) -> int:
    return os.stat(path).st_mode


def first_closed_ancestor(path: Path, mode: ModeOf = mode_of) -> Path | None:
    """Returns the topmost directory above `path` that others may not traverse."""
    for ancestor in reversed(path.parents):
        if not mode(ancestor) & stat.S_IXOTH:
            return ancestor
    return None


def roots_to_cover(paths: Iterable[Path], mode: ModeOf = mode_of) -> list[Path]:
    """Returns the directories to cover so that everybody can reach all of `paths`.

    Raises ConfigError if one of the paths is itself closed to others: covering cannot help there.
    """
    paths = list(paths)
    for path in paths:
        if not mode(path) & stat.S_IXOTH or not mode(path) & stat.S_IROTH:
            raise ConfigError(
                f"{path} cannot be read by other users, but jobs of the cluster's users need it; "
                f"run: chmod -R o+rX {path}"
            )
    found = {root for path in paths if (root := first_closed_ancestor(path, mode))}
    return without_nested(found)
