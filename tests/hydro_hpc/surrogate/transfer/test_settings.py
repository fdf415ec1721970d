"""The texts that a target's settings are written as."""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hydro_hpc.errors import StudyError
from hydro_hpc.study import Study, log_uniform
from hydro_hpc.surrogate.transfer.settings import (
    FILES,
    TargetSettings,
    as_deepspeed,
    as_json,
    as_module,
    left_out,
    plain,
    remove_settings,
    settings_of,
    write_settings,
)
from hydro_hpc.surrogate.transfer.standing import Candidate

CASES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("adam", {"lr": 1e-3, "betas": (0.8, 0.99), "weight_decay": 0.01}),
    ("adamw", {"lr": 1 / 3, "betas": (0.9, 0.95), "eps": 1e-9}),
    ("rmsprop", {"lr": 1e-3, "alpha": 0.9}),
    ("adagrad", {"lr": 1e-3, "lr_decay": 0.1}),
]


def settings(**changes: Any) -> TargetSettings:
    facts: dict[str, Any] = {
        "study": "tiny",
        "identity": "0123",
        "trial": 3,
        "value": 0.25,
        "target_value": None,
        "is_surrogate": True,
        "seed": 7,
        "optimizer": "adamw",
        "arguments": {"lr": 0.01},
        "model": {"depth": 2, "norm": "layer"},
        "batch_size": 16,
        "epochs": 4,
        "clip_name": None,
        "clip_limit": None,
    }
    return TargetSettings(**(facts | changes))


def run(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(text, "settings.py", "exec"), found)
    return found


@pytest.mark.parametrize(("optimizer", "arguments"), CASES)
def test_the_module_makes_torchs_optimizer_with_these_settings(
    optimizer: str, arguments: dict[str, Any]
) -> None:
    found = run(as_module(settings(optimizer=optimizer, arguments=arguments)))
    made = found["make_optimizer"](nn.Linear(2, 2))
    assert type(made).__name__.lower() == optimizer
    [group] = made.param_groups
    assert {name: group[name] for name in arguments} == arguments
    [given] = found["param_groups"](nn.Linear(2, 2))
    assert given.items() >= arguments.items()
    assert found["MODEL"] == {"depth": 2, "norm": "layer"}


@pytest.mark.parametrize(
    ("clip", "expected"),
    [((None, None), [3.0, 4.0]), (("clip_norm", 1.0), [0.6, 0.8]), (("clip_value", 2.0), [2, 2])],
)
def test_the_module_clips_as_the_trial_did(
    clip: tuple[str | None, float | None], expected: list[float]
) -> None:
    found = run(as_module(settings(clip_name=clip[0], clip_limit=clip[1])))
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    found["clip_gradients"](model)
    assert model.weight.grad.tolist()[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("optimizer", "arguments"), CASES)
def test_deepspeed_takes_its_configuration(
    optimizer: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deepspeed = pytest.importorskip("deepspeed.runtime.config")
    monkeypatch.setenv("WORLD_SIZE", "1")
    text = as_deepspeed(
        settings(optimizer=optimizer, arguments=arguments, clip_name="clip_norm", clip_limit=0.5)
    )
    config = deepspeed.DeepSpeedConfig(json.loads(text))
    assert config.train_batch_size == 16
    assert config.gradient_clipping == 0.5
    assert config.optimizer_name.lower() == optimizer
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in config.optimizer_params.items()}
    assert arguments.items() <= given.items()


@pytest.mark.parametrize(("optimizer", "decay"), [("adam", 0.0), ("adamw", 0.01), ("sgd", 0.0)])
@pytest.mark.parametrize("given", [{}, {"weight_decay": 0.1}])
def test_deepspeed_makes_torchs_optimizer_with_the_decay_that_was_tuned(
    optimizer: str, decay: float, given: dict[str, float]
) -> None:
    """Its own "Adam" would decay weights as AdamW does; torch's defaults are not the same."""
    engines = pytest.importorskip("deepspeed.runtime.engine")
    config = pytest.importorskip("deepspeed.runtime.config")
    study = Study(
        name="tiny",
        model=lambda: nn.Linear(2, 2),
        data=lambda: (torch.zeros(64, 2),) * 4,
        loss=nn.MSELoss(),
        space={"lr": log_uniform(1e-3, 1e-1), **given},
        optimizer=optimizer,
    )
    candidate = Candidate(number=3, value=0.25, params={"lr": 0.02}, seed=7)
    found = settings_of(study, candidate, None)
    text, module = as_deepspeed(found), run(as_module(found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "1")
        engine = object.__new__(engines.DeepSpeedEngine)
        nn.Module.__init__(engine)
        engine.client_optimizer = None
        engine._config = config.DeepSpeedConfig(json.loads(text))
        made = engine._configure_basic_optimizer(list(nn.Linear(2, 2).parameters()))
        of_groups = engine._configure_basic_optimizer(module["param_groups"](nn.Linear(2, 2)))
    expected = module["make_optimizer"](nn.Linear(2, 2))
    assert (
        type(made)
        is type(expected)
        is study.make_optimizer(nn.Linear(2, 2), {"lr": 0.02}).__class__
    )
    for one in (made, of_groups, expected):
        [group] = one.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.02, given.get("weight_decay", decay))
    assert json.loads(text)["optimizer"]["params"]["weight_decay"] == group["weight_decay"]
    assert engine.gradient_clipping() == 0.0


def test_numbers_and_their_tuples_are_pythons_own() -> None:
    found = run(
        as_module(
            settings(
                arguments=plain_all({"lr": np.float32(0.5), "betas": (np.float64(0.5), 0.75)}),
                model=plain_all({"sizes": (np.int64(3), 4), "norm": None, "bias": True}),
            )
        )
    )
    assert found["SETTINGS"] == {"lr": 0.5, "betas": (0.5, 0.75)}
    assert found["MODEL"] == {"sizes": (3, 4), "norm": None, "bias": True}
    assert found["MODEL"]["bias"] is True


def plain_all(values: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in values.items()}


class Norm(enum.StrEnum):
    LAYER = "layer"


def test_infinite_numbers_and_mappings_are_texts_that_make_them_again() -> None:
    model = {"cap": math.inf, "floor": (-math.inf,), "of": {1: [2.5], "a": None, (1, 2): True}}
    found = settings(model=plain_all(model))
    assert run(as_module(found))["MODEL"] == model
    assert left_out(found) == []
    said = json.loads(as_json(found), parse_constant=pytest.fail)["model"]
    assert said == {
        "cap": "inf",
        "floor": ["-inf"],
        "of": {"1": [2.5], "a": None, "(1, 2)": True},
    }
    assert math.isnan(run(as_module(settings(model={"x": math.nan})))["MODEL"]["x"])


def test_a_subclass_of_text_has_a_text_of_its_own_and_is_said() -> None:
    found = settings(model={"norm": Norm.LAYER, "depth": 2})
    assert left_out(found) == ["settings.py leaves out norm: a Norm has no text"]
    assert run(as_module(found))["MODEL"] == {"depth": 2}


@pytest.mark.parametrize("own", FILES)
def test_files_that_hydro_did_not_write_are_left(tmp_path: Path, own: str) -> None:
    (tmp_path / own).write_text("{}")
    for name in {*FILES} - {own}:
        with pytest.raises(StudyError, match=rf"holds {own} that hydro transfer did not write; gi"):
            write_settings(settings(), tmp_path)
        assert not (tmp_path / name).exists()
    remove_settings("tiny", "0123", tmp_path)
    assert (tmp_path / own).read_text() == "{}"


@pytest.mark.parametrize(
    ("other", "whose"),
    [
        ({"study": "broad"}, "study broad"),
        ({"identity": "4567"}, "another study of the name tiny"),
    ],
)
def test_settings_of_another_study_are_left(
    tmp_path: Path, other: dict[str, str], whose: str
) -> None:
    write_settings(settings(**other), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StudyError) as caught:
        write_settings(settings(), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds the settings of {whose}; give another folder with --out, or remove them "
        "first"
    )
    remove_settings("tiny", "0123", tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_settings_are_written_over_their_own_and_removed(tmp_path: Path) -> None:
    write_settings(settings(), tmp_path)
    write_settings(settings(batch_size=8), tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["batch_size"] == 8
    remove_settings("tiny", "0123", tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_be_removed_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(settings(), tmp_path)

    def refused(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StudyError, match=r"failed on the target, .*\(Permission denied\); do not"):
        remove_settings("tiny", "0123", tmp_path)


def test_what_has_no_text_is_said() -> None:
    found = settings(model={"layer": nn.Linear}, clip_name="clip_value", clip_limit=2.0)
    by_value, by_class = left_out(found)
    assert by_value.startswith("deepspeed.json does not clip: DeepSpeed has no setting for ")
    assert by_class == "settings.py leaves out layer: a type has no text"
    assert json.loads(as_deepspeed(found))["gradient_clipping"] == 0.0  # its default is 1
    assert json.loads(as_json(found))["model"] == {"layer": repr(nn.Linear)}
    assert run(as_module(found))["MODEL"] == {}
