"""`hydro explain`: what a study's workers wrote down, for people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor, nn

from hydro_hpc import cli
from hydro_hpc.fusion import ExecutorKind, bind
from tests.hydro_hpc.fusion.architectures import vectors
from tests.hydro_hpc.tiny_study import write_study


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.first.register_forward_hook(lambda *call: call[2] * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def explain(study: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = cli.main(["explain", str(study), *options])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_says_what_ran_how_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = tmp_path / "tiny.hydro/choices"
    for slots in (2, 3):
        models = [Mixed().double() for _ in range(slots)]
        bundle = bind(models, example=vectors(), choices=[choices])
    code, said, _ = explain(tmp_path / "tiny.hydro", capsys)
    assert code == 0
    largest, smaller = said.split("\n\n")
    assert largest.startswith("bundle of 3: ")
    assert smaller.startswith("bundle of 2: ")
    assert "  vmap: Linear 'first' has hooks" in largest
    assert "  loop: equals separate models, " in largest
    if bundle.report.executor is ExecutorKind.GROUPED:
        assert "    last (Linear): all slots at once, " in largest
        assert "    first: one by one, Linear 'first' has hooks" in largest
    code, said, _ = explain(tmp_path / "tiny.hydro", capsys, "--json")
    assert [bundle["slots"] for bundle in json.loads(said)["bundles"]] == [3, 2]


def test_finds_the_folder_by_the_studys_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, trials=2, epochs=1)
    code, said, problem = explain(study, capsys)
    assert (code, said) == (2, "")
    assert problem == (
        f"hydro: {tmp_path}/tiny.hydro says nothing of bundles: no worker has built one yet; "
        "run the study first\n"
    )


def test_a_spoiled_record_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "choices").mkdir()
    (tmp_path / "choices/a.json").write_text("{")
    code, _, problem = explain(tmp_path, capsys)
    assert (code, problem.count("\n")) == (2, 1)
    assert "choices cannot be read; remove it" in problem
