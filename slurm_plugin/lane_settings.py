"""Root's settings of a node, `lanes.conf`: what the file may say, and what is wrong with it.

Standard library only, any Python from 3.9: it runs as root in prologs.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
from typing import NamedTuple

DEFAULTS = {
    "page_dir": "/run/hydro",
    "device": "/dev/nvidia%d",
    "num_devices": "8",
    "cpu_cores": "",
    "tenant_partition": "bubble",
    "grace_s": "2",
    "constrain_devices": "auto",
    "job_gpus": "no",
    # for the SPANK plugin, prolog and epilog only:
    "python": "/usr/bin/python3",
    "program": "/usr/lib/hydro/hydro-lanes.pyz",
}
CONSTRAIN_DEVICES = ("auto", "yes", "no", "unenforced")
MAX_DEVICES = 64
MAX_GRACE_S = 3.0  # grace and kill together stay under the plugin's and the prolog's limits


class SettingsError(Exception):
    """One sentence: the file, what is wrong in it, what to do."""


class Settings(NamedTuple):
    """The keys that root's programs act on; site_config/hydro/lanes.conf explains them."""

    page_dir: str
    device: str  # a pattern with one %d
    num_devices: int
    cpu_cores: tuple[int, ...]  # one per device; empty: the devices are GPUs
    tenant_partition: str
    grace_s: float
    constrain_devices: str  # one of CONSTRAIN_DEVICES
    job_gpus: bool  # SLURM_JOB_GPUS in a prolog can be relied on (Slurm 24.05 and later)


def read_settings(path: str) -> Settings:
    """Returns the settings; raises SettingsError for the first thing that is wrong."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); install site_config/hydro/lanes.conf"
        ) from None
    with os.fdopen(fd, encoding="utf-8") as file:
        facts = os.fstat(file.fileno())
        if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(f"{path}: others than root can write it; chown root, chmod 0644")
        return parse_settings(file.read(), path)


def parse_settings(text: str, path: str) -> Settings:
    """Returns the settings that the text of `path` says; pure."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        given = dict(parser["lanes"])
    except (configparser.Error, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"{path}: not a section [lanes] of key = value lines ({reason})"
        ) from None
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        names = ", ".join(DEFAULTS)
        raise SettingsError(f"{path}: unknown key {unknown[0]!r}; the keys are {names}")
    values = {**DEFAULTS, **given}
    settings = Settings(
        page_dir=values["page_dir"],
        device=values["device"],
        num_devices=_number(values, "num_devices", path),
        cpu_cores=_cores(values["cpu_cores"], path),
        tenant_partition=values["tenant_partition"],
        grace_s=_seconds(values, "grace_s", path),
        constrain_devices=values["constrain_devices"],
        job_gpus=values["job_gpus"] == "yes",
    )
    problem = _problem(settings, values)
    if problem:
        raise SettingsError(f"{path}: {problem}")
    return settings


def _problem(settings: Settings, values: dict[str, str]) -> str:
    if not settings.page_dir.startswith("/"):
        return f"page_dir={settings.page_dir} is not an absolute path"
    if settings.device.count("%") != 1 or settings.device.count("%d") != 1:
        return f"device={settings.device} is not a path with one %d for the device's index"
    if not 1 <= settings.num_devices <= MAX_DEVICES:
        return f"num_devices={settings.num_devices} is not between 1 and {MAX_DEVICES}"
    if settings.cpu_cores and len(settings.cpu_cores) != settings.num_devices:
        return f"cpu_cores names {len(settings.cpu_cores)} cores for {settings.num_devices} devices"
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", settings.tenant_partition):
        return f"tenant_partition={settings.tenant_partition} is not the name of a partition"
    if settings.constrain_devices not in CONSTRAIN_DEVICES:
        known = ", ".join(CONSTRAIN_DEVICES)
        return f"constrain_devices={settings.constrain_devices} is none of {known}"
    if values["job_gpus"] not in ("yes", "no"):
        return f"job_gpus={values['job_gpus']} is neither yes nor no"
    return ""


def _number(values: dict[str, str], key: str, path: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", values[key]):
        raise SettingsError(f"{path}: {key}={values[key]} is not a whole number")
    return int(values[key])


def _seconds(values: dict[str, str], key: str, path: str) -> float:
    if (
        not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", values[key])
        or float(values[key]) > MAX_GRACE_S
    ):
        raise SettingsError(
            f"{path}: {key}={values[key]} is not between 0 and {MAX_GRACE_S} seconds"
        )
    return float(values[key])


def _cores(text: str, path: str) -> tuple[int, ...]:
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if not all(re.fullmatch(r"[0-9]{1,4}", name) for name in names):
        raise SettingsError(f"{path}: cpu_cores={text} is not a comma list of core numbers")
    return tuple(int(name) for name in names)


def constraint_problem(settings: Settings, config_path: str) -> str:
    """Says why the device cgroup cannot tell which devices a job holds, or returns an empty text.

    Without it every device would look granted. `unenforced` is for nodes whose devices always go to
    one job together.
    """
    if settings.constrain_devices in ("yes", "unenforced"):
        return ""
    if settings.constrain_devices == "no":
        return (
            f"{config_path} says constrain_devices=no, so it is not known which devices a job holds"
        )
    candidates = cgroup_conf_paths(config_path)
    found = next((path for path in candidates if os.path.exists(path)), None)
    if found is None:
        places = " or ".join(candidates)
        return f"no cgroup.conf is at {places}; if it is elsewhere, write constrain_devices=yes"
    if constrains_devices(found):
        return ""
    return (
        f"{found} does not say ConstrainDevices=yes, so it is not known which devices a job holds"
    )


def cgroup_conf_paths(config_path: str) -> list[str]:
    """Where cgroup.conf may be: above lanes.conf's folder, or a configless slurmd's copy."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(config_path)))
    paths = [f"{own}/cgroup.conf", "/etc/slurm/cgroup.conf", "/run/slurm/conf/cgroup.conf"]
    return list(dict.fromkeys(paths))


def constrains_devices(cgroup_conf: str) -> bool:
    """Says whether a cgroup.conf has ConstrainDevices=yes; the last line counts, as in Slurm."""
    value: str | None = None
    try:
        with open(cgroup_conf, encoding="utf-8", errors="replace") as file:
            for line in file:
                match = re.match(r"\s*constraindevices\s*=\s*\"?(\w+)", line, re.IGNORECASE)
                value = match.group(1).lower() if match else value
    except OSError:
        return False
    return value in ("yes", "true", "y", "1")
