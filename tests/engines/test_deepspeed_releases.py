"""What the hooks rely on in DeepSpeed holds in one release of each minor version.

The facts come from the released sources. `HYDRO_UPDATE_DEEPSPEED_FACTS=1` reads them again from
PyPI and writes them anew.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.engines.deepspeed_source import read_facts
from tests.engines.pypi_release import fetch_release

FACTS = Path(__file__).parent / "deepspeed_facts"
RELEASES = ("0.12.6", "0.13.5", "0.14.5", "0.15.4", "0.16.9", "0.17.6", "0.18.9", "0.19.8")
WITH_DUALPIPEV = ("0.19.8",)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def facts(release: str, pytestconfig: pytest.Config) -> dict[str, Any]:
    path = FACTS / f"{release}.json"
    if "HYDRO_UPDATE_DEEPSPEED_FACTS" in os.environ:
        assert pytestconfig.cache is not None
        folder = fetch_release("deepspeed", release, into=pytestconfig.cache.mkdir("deepspeed"))
        text = json.dumps(read_facts(folder / "deepspeed"), indent=1, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_engines_look_methods_up_in_a_map_at_each_instruction(facts: dict[str, Any]) -> None:
    """So a wrapped value of the map is called, with the buffer among its keywords."""
    assert facts["dispatch"] == ["self._INSTRUCTION_MAP[type(cmd)]", "**cmd.kwargs"]
    assert facts["buffer_instruction_parameters"] == ["self", "buffer_id"]
    known = facts["instruction_maps"]["PipelineEngine"]
    for instruction in ("RecvActivation", "RecvGrad", "SendActivation", "SendGrad"):
        assert instruction in known
    assert "OptimizerStep" in known


def test_a_step_is_one_train_batch_of_an_engine_that_knows_its_stage(facts: dict[str, Any]) -> None:
    assert facts["train_batch_parameters"] == ["self", "data_iter"]
    assert "self._exec_schedule" in facts["train_batch_calls"]
    assert facts["overriding_train_batch"] == []
    assert facts["engine_sets"] == ["self.num_stages", "self.stage_id"]


def test_everything_waits_in_torch_distributed_looked_up_when_called(facts: dict[str, Any]) -> None:
    assert "dist.send" in facts["p2p_calls"]["send"]
    assert "dist.recv" in facts["p2p_calls"]["recv"]
    for name, calls in facts["backend_calls"].items():
        assert f"torch.distributed.{name}" in calls
    assert facts["backend_joins_by"] == ["torch.distributed.init_process_group"]


def test_dualpipev_has_a_map_of_its_own(release: str, facts: dict[str, Any]) -> None:
    own = facts["instruction_maps"].get("DualPipeVEngine")
    assert (own is not None) == (release in WITH_DUALPIPEV)
    if own is not None:
        assert own["**"] == "PipelineEngine._INSTRUCTION_MAP"
        assert own["CommitP2P"] == "_exec_commit_p2p"
        assert "batch_isend_irecv" in facts["backend_calls"]


@pytest.mark.deepspeed
def test_committed_facts_are_those_of_the_installed_release() -> None:
    found = importlib.util.find_spec("deepspeed")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("DeepSpeed is not installed")
    version = importlib.metadata.version("deepspeed")
    path = FACTS / f"{version}.json"
    if not path.exists():
        pytest.skip(f"no facts of DeepSpeed {version} are kept")
    package = Path(found.submodule_search_locations[0])
    assert read_facts(package) == json.loads(path.read_text(encoding="utf-8"))
