"""The settings of the part that runs inside jobs: one dataclass, read from `hydro.toml` and the
environment.

Precedence: an option of sbatch over the environment (`HYDRO_<KEY>`) over the site's file over the
default. The file is named by `HYDRO_CONFIG`, else /etc/hydro/hydro.toml, and need not exist. Root's
part has its own file (lanes.conf), which no user can name.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydro_hpc.errors import ConfigError

DEFAULT_FILE: Final = "/etc/hydro/hydro.toml"

OPTIONS: Final = {"guard_bound": "SLURM_HYDRO_GUARD_BOUND"}  # --hydro-bubble=bound=0.5%
Share = float  # 0.01, or in text `1%`


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every key of hydro.toml, with its unit in its name and its default."""

    guard_bound: Share = 0.01  # slowdown of the primary over which bubbles are shut; 0.01 = 1%
    guard_dense_steps: int = 400  # steps from the job's first in which half of them are shut
    margin_us: float = 200.0  # a trial stops this long before a window's predicted end
    unit_us: float = 100.0  # profiled work of a trial between two looks at the gate
    idle_class: bool = True  # CPU devices: workers in the kernel's idle class, behind the flags
    grace_ms: float = 10.0  # device time after a close before a worker is stopped
    arrival_s: float = 120.0  # how long a gang waits for a primary to come up, or to go on
    leave_s: float = 20.0  # for a worker's last checkpoint, then its end comes without it
    patience_s: float = 10.0  # how long memory has been free before a bundle grows

    def __post_init__(self) -> None:
        if not 0 < self.guard_bound < 1:
            raise ValueError(f"guard_bound is {self.guard_bound}; give a fraction between 0 and 1")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{field.name} is {value}; give 0 or more")
        if not self.arrival_s:
            raise ValueError("arrival_s is 0; give the seconds that a gang waits for a primary")


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Returns the settings that hold in `environment`. Raises ConfigError with all faults."""
    path = Path(environment.get("HYDRO_CONFIG", DEFAULT_FILE))
    values: dict[str, Any] = {}
    problems: list[str] = []
    if path.exists():
        values.update(_from_file(path, problems))
    elif "HYDRO_CONFIG" in environment:
        problems.append(f"{path}: no such file; correct HYDRO_CONFIG or unset it")
    for field in dataclasses.fields(Settings):
        name = OPTIONS.get(field.name, "")
        name = name if name in environment else f"HYDRO_{field.name.upper()}"
        if name in environment:
            try:
                values[field.name] = _parse(environment[name], field.type)
            except ValueError:
                problems.append(f"{name} is {environment[name]!r}; give {_wanted(field.type)}")
    if not problems:
        try:
            return Settings(**values)
        except ValueError as error:
            problems.append(str(error))
    raise ConfigError("settings: " + "; ".join(problems))


def _from_file(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path}: {error}")
        return {}
    types = {field.name: field.type for field in dataclasses.fields(Settings)}
    values = {}
    for key, value in table.items():
        if key not in types:
            problems.append(f"{path}: unknown key {key!r}; known are {', '.join(sorted(types))}")
            continue
        try:
            values[key] = _parse(str(value).lower(), types[key])
        except ValueError:
            problems.append(f"{path}: {key} is {value!r}; give {_wanted(types[key])}")
    return values


def _parse(text: str, kind: Any) -> float | int | bool:
    if kind == "bool":
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError(text)
    if kind == "Share" and text.endswith("%"):
        return float(text[:-1]) / 100
    return int(text) if kind == "int" else float(text)


def _wanted(kind: Any) -> str:
    wanted = {"bool": "1 or 0", "int": "a whole number", "Share": "a share such as 0.5% or 0.005"}
    return wanted.get(kind, "a number")
