"""The GPT example on two local processes, without us."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.hydro_hpc.ranks import run_ranks
from tests.hydro_hpc.warm_python import WarmPython

SCRIPT = Path(__file__).parents[2] / "examples" / "gpt_pipeline" / "train.py"
SMALL = ["--width", "32", "--layers", "2", "--seq", "32", "--lr", "0.01"]


class Training:
    """Runs of the example in a folder, one process per stage."""

    def __init__(self, directory: Path, run: Callable[..., list[str]]) -> None:
        self._directory = directory
        self._run = run

    def losses(self, *arguments: str, stages: int = 2) -> list[float]:
        """Returns the losses of a run's steps."""
        loss_file = self._directory / "losses.jsonl"
        loss_file.unlink(missing_ok=True)
        self._run(
            *(str(SCRIPT), *SMALL, f"--loss-file={loss_file}", *arguments),
            page_dir=None,
            ranks=stages,
            environment={"DS_ACCELERATOR": "cpu"},
        )
        return [json.loads(line)["loss"] for line in loss_file.read_text().splitlines()]

    def checkpoints(self) -> list[str]:
        return [f"--checkpoint-dir={self._directory / 'checkpoints'}", "--save-every=2"]


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Four steps of two stages, each in a Python of its own."""
    return Training(tmp_path_factory.mktemp("whole"), run_ranks).losses("--steps=4")


@pytest.fixture
def training(tmp_path: Path, warm: WarmPython) -> Training:
    return Training(tmp_path, warm.run_ranks)


@pytest.mark.deepspeed
def test_the_loss_falls_and_two_runs_are_the_same_bit_by_bit(
    losses: list[float], training: Training
) -> None:
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert training.losses("--steps=4") == losses
    assert training.losses("--steps=4", "--seed=1") != losses


@pytest.mark.deepspeed
def test_one_stage_and_two_train_the_same_model(losses: list[float], training: Training) -> None:
    """So nothing is lost between stages: weights, batches, clipping by the norm of all stages."""
    assert training.losses("--steps=4", stages=1) == pytest.approx(losses, rel=1e-6)


@pytest.mark.deepspeed
def test_a_run_resumed_from_a_checkpoint_goes_on_bit_by_bit(
    losses: list[float], training: Training
) -> None:
    assert training.losses("--steps=2", *training.checkpoints()) == losses[:2]
    assert training.losses("--steps=4", *training.checkpoints()) == losses[2:]


def test_it_imports_nothing_of_ours() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    assert "deepspeed" in names
    assert not [name for name in names if name.split(".")[0] in ("hydro_hpc", "slurm_plugin")]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("deepspeed")
    spec = importlib.util.spec_from_file_location("gpt_pipeline_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.deepspeed
@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("n[01-04,07],m1", "n01"),
        ("rack-3-[5,9]-a,b", "rack-3-5-a"),
    ],
)
def test_the_first_node_of_a_slurm_list_is_the_master(
    script: ModuleType, nodes: str, first: str
) -> None:
    assert script.first_node(nodes) == first


@pytest.mark.deepspeed
def test_slurms_variables_are_used_unless_torchrun_set_its_own(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = {
        "SLURM_PROCID": "1",
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": "40007",
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    script.set_rank_variables()
    assert os.environ["RANK"] == "1"
    assert os.environ["MASTER_ADDR"] == "n1"
    assert os.environ["MASTER_PORT"] == "20007"
    monkeypatch.setenv("SLURM_PROCID", "0")
    script.set_rank_variables()
    assert os.environ["RANK"] == "1"
