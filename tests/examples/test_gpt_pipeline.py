"""The GPT example on two local processes, without us."""

from __future__ import annotations

import ast
import json
import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.gpt_example import SCRIPT, load_script
from tests.hydro_hpc.ranks import run_ranks
from tests.hydro_hpc.warm_python import WarmPython

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


@pytest.mark.deepspeed
def test_a_deepspeed_configuration_replaces_sections_of_its_own(
    losses: list[float], training: Training, tmp_path: Path
) -> None:
    """Of DeepSpeed's Adam, which decays weights as AdamW does unless it is told not to."""
    file = tmp_path / "deepspeed.json"
    optimizer = {"type": "Adam", "params": {"lr": 0.01, "torch_adam": True}}
    file.write_text(json.dumps({"train_batch_size": 16, "optimizer": optimizer}))
    assert training.losses("--steps=4", "--lr=0.5", f"--deepspeed-config={file}") == losses


@pytest.mark.parametrize(("name", "library"), [("train.py", "deepspeed"), ("gpt.py", "torch")])
def test_it_imports_nothing_of_ours(name: str, library: str) -> None:
    tree = ast.parse(SCRIPT.with_name(name).read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    assert library in names
    assert not [name for name in names if name.split(".")[0] in ("hydro_hpc", "slurm_plugin")]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script()


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


@pytest.mark.deepspeed
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "deepspeed.json cannot be read: No such file or directory"),
        ("{", "deepspeed.json is no JSON: "),
        ("[1]", "deepspeed.json holds no JSON object, as {} is one"),
        ('{"optimizer": "Adam"}', "deepspeed.json: its optimizer has no type, such as Adam"),
    ],
)
def test_a_configuration_that_is_none_is_one_sentence(
    script: ModuleType, tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "deepspeed.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArgumentTypeError) as raised:
        script.read_config(str(file))
    assert str(raised.value).startswith(f"{tmp_path}/{said}")


@pytest.mark.deepspeed
def test_a_configuration_of_another_batch_is_one_sentence(script: ModuleType) -> None:
    sizes = {"micro_batches": 4, "micro_batch_size": 4}
    fitting = Namespace(deepspeed_config={"train_batch_size": 32}, **sizes)
    script.check_batch(fitting, replicas=2)
    with pytest.raises(SystemExit) as raised:
        script.check_batch(fitting, replicas=1)
    assert str(raised.value) == (
        "train.py: --deepspeed-config says train_batch_size 32, but --micro-batches 4 of "
        "--micro-batch-size 4 on 1 replicas make it 16; change one of them"
    )
    script.check_batch(Namespace(deepspeed_config=None, **sizes), replicas=1)
