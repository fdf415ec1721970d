"""The state file: read back as written, refused when it is something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devcluster.spec import ClusterSpec, Layout
from hydro_hpc.devcluster.state import ClusterState, load_state
from hydro_hpc.errors import ConfigError
from hydro_hpc.identity import own_identity


def test_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    state = ClusterState(
        spec=ClusterSpec(nodes=3, devices_per_node=2, first_port=7000, directory=tmp_path),
        slurm_version="22.05.8",
        is_complete=True,
        ports=[7000, 7001, 7002, 7003],
        not_enforced=["devices: none"],
        processes={"login": own_identity()},
    )
    state.save()
    assert load_state(tmp_path) == state


def test_a_process_with_the_same_pid_and_another_start_is_missing(tmp_path: Path) -> None:
    own = own_identity()
    state = ClusterState(
        spec=ClusterSpec(directory=tmp_path),
        processes={"ours": own, "reused": own._replace(start_ticks=own.start_ticks + 1)},
    )
    assert state.missing() == ["reused"]
    assert state.running() == ["ours"]


def test_no_file_is_no_cluster(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', "[]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    Layout(tmp_path).state_file.write_text(text)
    with pytest.raises(ConfigError, match="not a state file of this release"):
        load_state(tmp_path)


@pytest.mark.parametrize("numbers", [{"nodes": 0}, {"nodes": 33}, {"devices_per_node": 0}])
def test_numbers_that_make_no_cluster_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        ClusterSpec(**numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("directory", ["relative", "/with blank"])
def test_directories_that_slurm_cannot_take_are_refused(directory: str) -> None:
    with pytest.raises(ConfigError, match="absolute path without blanks"):
        ClusterSpec(directory=Path(directory))
