"""`hydro transfer`, as it is typed."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hydro_hpc import cli
from hydro_hpc.errors import StudyError
from hydro_hpc.study import alone
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.study.trial import TrialFailedError
from hydro_hpc.surrogate.transfer.standing import Candidate, read_standing
from tests.hydro_hpc.surrogate.transfer.conftest import RunStudy
from tests.hydro_hpc.trial.test_solo_surrogates import write_followed_study, write_narrow_study

FILES = ("settings.json", "settings.py", "deepspeed.json")


def transfer(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["transfer", str(path), *options])
    said = capsys.readouterr()
    return code, said.out, said.err


def best_of(path: Path) -> Candidate:
    study = load_study(path)
    return read_standing(StudyFolder(path.parent, study.name), study.description).candidates[0]


def test_writes_the_targets_settings_for_torch_and_deepspeed(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = run_study()
    best = best_of(path)
    code, said, _ = transfer(path, capsys)
    assert code == 0
    out = tmp_path / "tiny.hydro/transfer"
    assert said == (
        f"study tiny: 6 of 6 trials have ended; best is trial {best.number}: "
        f"{best.value:.6g} {best.params}\n"
        f"written to {out}: settings.json, settings.py, deepspeed.json\n"
    )
    settings = json.loads((out / "settings.json").read_text())
    assert settings["arguments"] == {"weight_decay": 0.0, **best.params}
    assert (settings["trial"], settings["value"]) == (best.number, best.value)
    assert (settings["target_value"], settings["is_surrogate"]) == (None, False)
    module = runpy.run_path(str(out / "settings.py"))
    model = nn.Linear(3, 2)
    optimizer = module["make_optimizer"](model)
    assert type(optimizer) is torch.optim.Adam
    [group] = optimizer.param_groups
    assert group["lr"] == best.params["lr"]
    assert [p.shape for p in group["params"]] == [p.shape for p in model.parameters()]
    assert (module["BATCH_SIZE"], module["EPOCHS"]) == (32, 3)
    deepspeed = json.loads((out / "deepspeed.json").read_text())
    assert deepspeed["train_batch_size"] == 32
    assert deepspeed["optimizer"]["type"] == "Adam"
    assert deepspeed["optimizer"]["params"]["lr"] == best.params["lr"]


def test_verifies_and_says_so(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = run_study()
    best = best_of(path)
    out = tmp_path / "elsewhere"
    code, said, _ = transfer(path, capsys, "--verify", "2", "--out", str(out))
    assert code == 0
    assert f"target, trial {best.number}, epoch 3 of 3: {best.value:.6g} (" in said
    assert f"best on the target is trial {best.number}: {best.value:.6g}\n" in said
    assert json.loads((out / "settings.json").read_text())["target_value"] == best.value
    assert "on the target." in (out / "settings.py").read_text().splitlines()[0]


@pytest.mark.parametrize("options", [[], ["--verify", "1"]])
def test_says_that_the_best_rate_is_at_the_edge(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """Of rates that are all too small for three epochs but one."""
    path = run_study(run=0)
    path.write_text(path.read_text().replace("log_uniform(1e-3, 1e-1)", "choice(1e-9, 1e-8, 1e-2)"))
    path.write_text(path.read_text().replace("import Study, log_uniform", "import Study, choice"))
    load_study(path).run(path.parent)
    _, said, _ = transfer(path, capsys, *options)
    assert f"\nlr of trial {best_of(path).number}, 0.01, is at the upper edge of its range" in said


def test_says_what_surrogates_do_not_vouch_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_narrow_study(tmp_path, trials=2)
    load_study(path).run(tmp_path)
    _, said, _ = transfer(path, capsys)
    best, horizon, written = said.splitlines()
    assert best.startswith("study tiny: 2 of 2 trials have ended; best is trial ")
    assert "another horizon, 3 epochs and the target for 90:" in horizon
    assert written.startswith("written to ")
    (tmp_path / "tiny.hydro/proof.json").unlink()
    _, said, _ = transfer(path, capsys)
    assert said.splitlines()[2] == (
        f"the surrogates are not checked yet: hydro check-surrogate {path} does, in seconds"
    )
    settings = json.loads((tmp_path / "tiny.hydro/transfer/settings.json").read_text())
    assert (settings["epochs"], settings["is_surrogate"]) == (90, True)


@pytest.mark.parametrize("options", [[], ["--verify", "1"]])
def test_a_model_that_has_changed_since_is_not_transferred(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str]
) -> None:
    path = write_followed_study(tmp_path)
    load_study(path).run(tmp_path)
    write_followed_study(tmp_path, inner=48)
    code, said, problem = transfer(path, capsys, *options)
    assert (code, said, problem.count("\n")) == (2, "", 1)
    assert f"the model is another than when the rules in {tmp_path / 'tiny.hydro/rules'}" in problem
    assert not (tmp_path / "tiny.hydro/transfer").exists()


def test_a_batch_of_the_target_beyond_its_data_is_not_verified(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_narrow_study(tmp_path, trials=2)
    path.write_text(path.read_text().replace("target_epochs=90", "target_batch_size=193"))
    load_study(path).run(tmp_path)
    code, said, problem = transfer(path, capsys, "--verify", "1")
    assert (code, said) == (2, "")
    assert problem == (
        "hydro: Narrow(target_batch_size=193): the study's data have 192 rows to train, so the "
        "target cannot be verified with a batch of them; give it more data or a smaller batch, or "
        "transfer without --verify\n"
    )
    assert transfer(path, capsys)[0] == 0


def test_who_interrupts_a_verification_loses_nothing(
    run_study: RunStudy,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = run_study()
    whole, epochs = alone.Training.train_epoch, 0

    def interrupted(training: alone.Training) -> None:
        nonlocal epochs
        epochs += 1
        if epochs == 3:
            raise KeyboardInterrupt
        whole(training)

    with monkeypatch.context() as patch:
        patch.setattr(alone.Training, "train_epoch", interrupted)
        code, _, problem = transfer(path, capsys, "--verify", "1")
    folder = tmp_path / "tiny.hydro"
    assert code == 130
    assert problem == (
        f"hydro: interrupted; what the target has reached at the end of each epoch is in "
        f"{folder / 'targets'}, the same command goes on from there, and {folder / 'transfer'} "
        "has the best so far\n"
    )
    code, said, _ = transfer(path, capsys, "--verify", "1")
    best = best_of(path)
    assert code == 0
    assert f"target, trial {best.number}: trains after epoch 2 to epoch 3" in said
    assert f"epoch 3 of 3: {best.value:.6g} (" in said


def test_targets_that_all_failed_are_not_transferred(
    run_study: RunStudy,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = run_study()

    def diverged(training: alone.Training) -> None:
        del training
        raise TrialFailedError("its loss was not finite in epoch 0")

    monkeypatch.setattr(alone.Training, "train_epoch", diverged)
    code, said, _ = transfer(path, capsys, "--verify", "2")
    best = best_of(path)
    settings = json.loads((tmp_path / "tiny.hydro/transfer/settings.json").read_text())
    assert code == 0
    assert settings["trial"] != best.number
    assert f"so trial {settings['trial']} is transferred, which is not verified" in said
    code, _, problem = transfer(path, capsys, "--verify", "6")
    assert code == 2
    assert problem == (
        "hydro: study tiny: every trial that completed has failed on the target, so there is "
        f"nothing to transfer; {tmp_path / 'tiny.hydro/targets'} says why\n"
    )
    assert not list((tmp_path / "tiny.hydro/transfer").iterdir())


def test_json_is_all_that_a_program_reads(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, said, _ = transfer(run_study(), capsys, "--json", "--verify", "1")
    written = (tmp_path / "tiny.hydro/transfer/settings.json").read_text()
    assert json.loads(said) == json.loads(written)


@pytest.mark.parametrize("options", [[], ["--verify", "1"]])
def test_a_study_that_has_not_run_is_one_sentence(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str]
) -> None:
    code, said, problem = transfer(run_study(run=0), capsys, *options)
    assert (code, said) == (2, "")
    folder = tmp_path / "tiny.hydro"
    assert problem == (f"hydro: study tiny has not run yet: {folder} is not there; run it first\n")
    assert not folder.exists()
    folder.mkdir()  # as `hydro check-surrogate` does
    code, _, problem = transfer(run_study(run=0), capsys, *options)
    assert (code, problem.count("\n")) == (2, 1)
    assert f"has not run yet: {folder / 'study.json'} is not there" in problem


@pytest.mark.parametrize("options", [[], ["--verify", "1"]])
def test_a_spoiled_journal_is_one_sentence(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str]
) -> None:
    path = run_study()
    journal = tmp_path / "tiny.hydro/journal.log"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:5], "no JSON\n", *lines[6:]]))
    code, _, problem = transfer(path, capsys, *options)
    assert (code, problem.count("\n")) == (2, 1)
    sentence = f"{journal} cannot be read: a line in it is no JSON; mend the line, or move the fol"
    assert problem.startswith(f"hydro: {sentence}")
    with pytest.raises(StudyError, match=re.escape(sentence)):
        load_study(path).run(tmp_path)


@pytest.mark.parametrize("options", [[], ["--verify", "1"]])
def test_a_study_without_a_trial_that_did_not_fail_is_one_sentence(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    path = run_study(loss="lambda y, t: (y.sum() * 0 + 1) / torch.zeros(())")
    code, _, problem = transfer(path, capsys, *options)
    assert code == 2
    assert problem == (
        "hydro: study tiny: all 6 trials that ended have failed, so there is nothing to "
        "transfer; the last one because its loss was not finite in epoch 0\n"
    )


def test_a_study_whose_first_trials_are_in_work_is_one_sentence(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_study(run=0)
    study = load_study(path)
    from hydro_hpc.study.search import Search

    search = Search(study.description, StudyFolder(path.parent, study.name))
    search.ask()
    code, _, problem = transfer(path, capsys)
    search.close()
    assert code == 2
    assert problem == (
        "hydro: study tiny has no finished trial yet (1 in work); wait for one, or run the study\n"
    )


def test_another_study_of_the_same_name_is_refused(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the first one's settings are, which are not what is wrong."""
    assert transfer(run_study(), capsys)[0] == 0
    path = run_study(run=0, epochs=4)
    code, _, problem = transfer(path, capsys)
    assert code == 2
    assert "holds a study of another settings (epochs); give this one another name" in problem


def test_a_folder_in_place_of_the_file_is_one_sentence(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_study()
    code, _, problem = transfer(tmp_path / "tiny.hydro", capsys)
    assert (code, problem.count("\n")) == (2, 1)
    assert "is a folder; give the study's file" in problem


def test_a_place_that_cannot_be_written_is_one_sentence(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, problem = transfer(run_study(), capsys, "--out", str(tmp_path / "file/x"))
    assert (code, problem.count("\n")) == (2, 1)
    assert "cannot be written (Not a directory); give another with --out" in problem


@pytest.mark.parametrize("options", [[], ["--verify", "1"]])
def test_settings_of_another_study_are_left_before_anything_is_trained(
    run_study: RunStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "out"
    path = run_study()
    assert transfer(path, capsys, "--out", str(out))[0] == 0
    path.write_text(path.read_text().replace("trials=6", "trials=7"))  # it is the same study
    load_study(path).run(path.parent)
    assert transfer(path, capsys, "--out", str(out))[0] == 0
    before = (out / "settings.json").read_bytes()
    path.write_text(path.read_text().replace('name="tiny"', 'name="broad"'))
    load_study(path).run(path.parent)
    code, said, problem = transfer(path, capsys, "--out", str(out), *options)
    assert (code, said) == (2, "")
    assert problem == (
        f"hydro: {out} holds the settings of study tiny; give another folder with --out, or remove "
        "them first\n"
    )
    assert (out / "settings.json").read_bytes() == before


def test_the_command_hydro_starts_without_torch() -> None:
    code = "import sys, hydro_hpc.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
