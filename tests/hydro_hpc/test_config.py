"""Where a setting comes from, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.config import load_settings
from hydro_hpc.errors import ConfigError


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment whose file has one key."""
    path = tmp_path / "hydro.toml"
    path.write_text("guard_bound = 0.02\n")
    return {"HYDRO_CONFIG": str(path)}


def test_the_bound_is_the_sites_unless_the_job_has_its_own(nowhere: dict[str, str]) -> None:
    assert load_settings(nowhere).guard_bound == 0.02
    assert load_settings({**nowhere, "HYDRO_GUARD_BOUND": "0.5%"}).guard_bound == 0.005
    own = {**nowhere, "HYDRO_GUARD_BOUND": "0.03"}
    assert load_settings(own).guard_bound == 0.03
    assert load_settings({**own, "SLURM_HYDRO_GUARD_BOUND": "0.5%"}).guard_bound == 0.005


def test_a_file_may_say_it_as_a_percentage(nowhere: dict[str, str]) -> None:
    Path(nowhere["HYDRO_CONFIG"]).write_text('guard_bound = "3%"\n')
    assert load_settings(nowhere).guard_bound == 0.03


@pytest.mark.parametrize("text", ["", "%", "x", "0.5%%", "0,5%"])
def test_what_is_no_share_is_named(nowhere: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings({**nowhere, "HYDRO_GUARD_BOUND": text})
    assert str(raised.value) == (
        f"settings: HYDRO_GUARD_BOUND is {text!r}; give a share such as 0.5% or 0.005"
    )


def test_a_share_of_everything_is_refused(nowhere: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"guard_bound is 2\.0; give a fraction between 0 and 1"):
        load_settings({**nowhere, "HYDRO_GUARD_BOUND": "200%"})


def test_only_shares_are_percentages(nowhere: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="HYDRO_UNIT_US is '5%'; give a number"):
        load_settings({**nowhere, "HYDRO_UNIT_US": "5%"})


def test_file_that_is_no_text_is_named(nowhere: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "hydro.toml"
    file.write_bytes(b"guard_bound = \xff")
    with pytest.raises(ConfigError, match=r"hydro\.toml"):
        load_settings({**nowhere, "HYDRO_CONFIG": str(file)})
