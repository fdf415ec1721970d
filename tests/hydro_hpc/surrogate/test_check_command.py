"""`hydro check-surrogate` on study files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hydro_hpc import cli
from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, StudyError
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.study.proof import doubts, rows_to_check

STUDY = """
import torch
from torch import nn
from hydro_hpc import Study
from hydro_hpc.study import log_uniform
from hydro_hpc.surrogate import Narrow

def model(width=64):
    head = nn.Linear(width, 4)
    {spoil}
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), head)

def data():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long(), x, (x[:, 0] > 0).long()

study = Study(
    name="s", model=model, data=data, loss=nn.CrossEntropyLoss(),
    space={{"lr": log_uniform(1e-3, 1e-1)}}, epochs=1, trials=1, {surrogate}
)
if __name__ == "__main__":
    study.run()
"""
WITH = "surrogate=Narrow(width=32)"
INSISTING = "surrogate=Narrow(width=32, unproven=True)"
GROWS = "head.register_forward_pre_hook(lambda m, args: (args[0] * (width / 16) ** 2,))"


def study_file(folder: Path, *, surrogate: str = WITH, spoil: str = "") -> str:
    path = folder / "study.py"
    path.write_text(STUDY.format(surrogate=surrogate, spoil=spoil), encoding="utf-8")
    return str(path)


def test_a_line_per_layer_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "check.png"
    code = cli.main(["check-surrogate", study_file(tmp_path), "--plot", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    assert code == EXIT_DONE
    assert [line.split()[:2] for line in lines if line.startswith("ok")] == [
        ["ok", layer] for layer in ("0", "1", "2", "3", "4", "(model)")
    ]
    assert lines[-1].startswith("passed")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_fault_is_exit_code_1_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["check-surrogate", study_file(tmp_path, spoil=GROWS), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == EXIT_FAILED
    assert not found["passed"]
    assert found["culprits"] == ["4"]


def test_a_study_without_surrogate_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check-surrogate", study_file(tmp_path, surrogate="")]) == EXIT_USAGE
    assert "has no surrogate to check" in capsys.readouterr().err


def test_the_studys_folder_keeps_what_came_out(tmp_path: Path) -> None:
    file = study_file(tmp_path, spoil=GROWS)
    study, folder = load_study(Path(file)), StudyFolder(tmp_path, "s")
    assert "not checked yet" in next(doubts(study, folder, file))
    cli.main(["check-surrogate", file])
    with pytest.raises(
        StudyError, match=r"do not agree with their target.*Narrow\(unproven=True\)"
    ):
        next(doubts(study, folder, file))
    insisting = load_study(Path(study_file(tmp_path, spoil=GROWS, surrogate=INSISTING)))
    assert "do not agree with their target" in next(doubts(insisting, folder, file))
    cli.main(["check-surrogate", study_file(tmp_path)])
    assert not list(doubts(load_study(Path(file)), folder, file))


def test_a_study_that_fails_the_check_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(Path(study_file(tmp_path, spoil=GROWS)))
    with pytest.raises(StudyError, match=r"'4': .* the multiplier"):
        study.run(tmp_path)
    assert "trial 0" not in capsys.readouterr().out
    mended = load_study(Path(study_file(tmp_path)))
    assert mended.run(tmp_path).completed == 1


def test_a_study_that_insists_starts_though_the_check_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(Path(study_file(tmp_path, spoil=GROWS, surrogate=INSISTING)))
    assert study.run(tmp_path).completed == 1
    assert "do not agree with their target, so that what they find may not" in (
        capsys.readouterr().out
    )


def test_that_surrogates_passed_holds_for_the_model_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study_file(tmp_path)
    subprocess.run([sys.executable, file], cwd=tmp_path, check=True, timeout=100)
    proof = tmp_path / "s.hydro/proof.json"
    folder, before = StudyFolder(tmp_path, "s"), proof.stat().st_mtime_ns
    same = load_study(Path(file))
    assert not list(doubts(same, folder, file))
    same.run(tmp_path)
    assert proof.stat().st_mtime_ns == before
    changed = load_study(Path(study_file(tmp_path, spoil=GROWS)))
    assert list(doubts(changed, folder, file)) == [
        "the model has changed since its surrogates were checked: hydro check-surrogate "
        f"{file} checks them again, in seconds"
    ]
    with pytest.raises(StudyError, match=r"'4': .* the multiplier"):
        changed.run(tmp_path)
    capsys.readouterr()
    same.run(tmp_path)
    assert "the model has changed since its surrogates were checked; earlier trials may be" in (
        capsys.readouterr().out
    )


def test_a_model_of_which_nothing_is_known_is_checked_again(tmp_path: Path) -> None:
    file = study_file(tmp_path)
    load_study(Path(file)).run(tmp_path)
    proof = tmp_path / "s.hydro/proof.json"
    facts = json.loads(proof.read_text())
    proof.write_text(json.dumps({name: value for name, value in facts.items() if name != "model"}))
    assert list(doubts(load_study(Path(file)), StudyFolder(tmp_path, "s"), file)) == [
        "the model is not known to be as it was when its surrogates were checked: hydro "
        f"check-surrogate {file} checks them again, in seconds"
    ]
    load_study(Path(file)).run(tmp_path)
    assert json.loads(proof.read_text())["model"] == facts["model"]


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (torch.zeros(64, 512, dtype=torch.long), 2),
        (torch.zeros(64, 32, dtype=torch.long), 8),
        (torch.zeros(64, dtype=torch.long), 16),
        (torch.zeros(64, 3, 16, 16), 16),
        (torch.zeros(2, 128, dtype=torch.long), 2),
    ],
)
def test_few_rows_of_long_texts_are_enough(x: Tensor, rows: int) -> None:
    assert len(rows_to_check(x)) == rows


def test_a_study_that_cannot_be_checked_starts_if_it_insists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for surrogate in (WITH, INSISTING):
        file = Path(study_file(tmp_path, surrogate=surrogate))
        loss = "lambda outputs, targets: outputs.sum() * float('nan')"
        file.write_text(file.read_text().replace("nn.CrossEntropyLoss()", loss))
        study = load_study(file)
        if surrogate == WITH:
            with pytest.raises(StudyError, match=r"loss is nan before the first .*unproven=True"):
                study.run(tmp_path)
    assert study.run(tmp_path).failed == 1
    assert "the surrogates are not checked yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["check.xyz", "check.png.bak"])
def test_a_name_of_no_image_is_one_sentence_before_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / name
    code = cli.main(["check-surrogate", study_file(tmp_path), "--plot", str(picture)])
    said = capsys.readouterr()
    assert (code, said.out) == (EXIT_USAGE, "")
    assert said.err == (
        f"hydro: {picture}: matplotlib writes no images that end in {picture.suffix}; give a name "
        "that ends in .png, .svg or .pdf\n"
    )
    assert not picture.exists()
    assert not (tmp_path / "s.hydro").exists()


@pytest.mark.parametrize(("name", "why"), [("no/check.png", "No such file"), (".", "Is a direc")])
def test_a_picture_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    pytest.importorskip("matplotlib")
    code = cli.main(["check-surrogate", study_file(tmp_path), "--plot", str(tmp_path / name)])
    said = capsys.readouterr()
    assert code == EXIT_USAGE
    assert "passed: " in said.out
    assert said.err.startswith(f"hydro: {tmp_path / name} cannot be written ({why}")
    assert said.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_sentence_after_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "s.hydro").mkdir()
    (tmp_path / "s.hydro/proof.json.new").mkdir()  # root may write into any folder
    picture = tmp_path / "check.png"
    code = cli.main(["check-surrogate", study_file(tmp_path), "--plot", str(picture)])
    said = capsys.readouterr()
    assert code == EXIT_USAGE
    assert "passed: " in said.out
    assert said.err == (
        f"hydro: {tmp_path / 's.hydro'} cannot be written (Is a directory), so it does not keep "
        "what the check said; copy the study with its folder to where you may write\n"
    )
    assert picture.exists()


def test_what_was_said_of_another_study_in_its_folder_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_study(study_file(tmp_path)).run(tmp_path)
    proof = tmp_path / "s.hydro/proof.json"
    before = proof.read_bytes()
    other = study_file(tmp_path, surrogate="surrogate=Narrow(width=16)", spoil=GROWS)
    code = cli.main(["check-surrogate", other])
    assert code == EXIT_USAGE
    assert "another settings (surrogate); give this one ano" in capsys.readouterr().err
    assert proof.read_bytes() == before
