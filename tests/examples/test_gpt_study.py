"""The GPT example, tuned by a narrow one of itself."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc import cli
from hydro_hpc.study import Study, load_study
from hydro_hpc.study.trial import Trial
from tests.examples.gpt_example import SCRIPT, load_script, write_small_study
from tests.hydro_hpc.trial.open_lane import OpenLane, new_folder, train_trials, values

PARAMS = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.99}


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported from beside a study, and where from, is forgotten after the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("gpt", None)
    yield
    sys.modules.pop("gpt", None)


@pytest.fixture
def study() -> Study:
    return load_study(SCRIPT.with_name("study.py"))


@pytest.fixture
def script() -> ModuleType:
    return load_script()


def arguments_of(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *given: str) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    arguments: Namespace = script.parse_arguments()
    return arguments


def test_it_is_sound_and_its_heads_keep_their_size(study: Study) -> None:
    study.check()
    assert study.surrogate_lines() == [
        "trials train surrogates of width 32 of 128 for 1 epoch in batches of 16 (200 steps); "
        "the target's horizon is the same",
        "clip_norm cuts gradients by their size, which is larger in narrow models, so the target's "
        "best is another; choose it on the target",
    ]
    data = study.data()
    assert (data.train_x.shape, data.test_y.shape) == ((3200, 128), (64, 128))
    assert torch.equal(data.train_x[:, 1:], data.train_y[:, :-1])
    sizes = []
    for model in (study.build_model(PARAMS, 0), study.build_target(PARAMS, 0)):
        block: Any = model.get_submodule("1")
        sizes.append((block.qkv.in_features, block.heads))
    assert sizes == [(32, 1), (128, 4)]


def test_only_weights_inside_blocks_learn_at_four_times_the_rate(study: Study) -> None:
    """Four, since the narrow GPT has a fourth of the width: of muP under AdamW."""
    surrogate = study.build_surrogate(PARAMS, 0)
    groups = surrogate.param_groups("adamw", lr=1.0)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name for name, p in surrogate.module.named_parameters() if rates[id(p)] != 1.0}
    layers = ("qkv", "attention_out", "mlp_in", "mlp_out")
    assert found == {f"{block}.{layer}.weight" for block in (1, 2, 3, 4) for layer in layers}
    assert {rates[id(p)] for p in surrogate.module.parameters()} == {1.0, 4.0}


@pytest.mark.deepspeed
def test_at_the_targets_width_it_is_the_model_that_is_trained(
    study: Study, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its defaults, bit by bit: weights, batch, steps, clipping."""

    def whole(layers: list[Any], **_: Any) -> nn.Module:
        return nn.Sequential(*(layer.build() for layer in layers))

    arguments = arguments_of(script, monkeypatch, "--seed=5")
    monkeypatch.setattr(script, "PipelineModule", whole)
    trained = script.build_model(arguments)
    x = study.data().test_x[:2]
    for model in (
        study.build_target(PARAMS, 5),
        study.with_surrogate(by=1).build_model(PARAMS, 5),
    ):
        expected = trained.state_dict()
        assert model.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[n]) for n, value in model.state_dict().items())
        assert torch.equal(model(x), trained(x))
    batch = arguments.micro_batches * arguments.micro_batch_size
    assert study.batch_indices(PARAMS, 0, 0).shape == (arguments.steps, batch)
    config = script.deepspeed_config(arguments)
    assert study.clip_limit(PARAMS) == config["gradient_clipping"]
    assert study.optimizer_name == config["optimizer"]["type"].lower()
    decay = config["optimizer"]["params"]["weight_decay"]
    assert study.optimizer_settings(PARAMS)["weight_decay"] == decay


def test_in_a_step_weights_of_all_widths_decay_alike(study: Study) -> None:
    decay = study.optimizer_settings(PARAMS)["weight_decay"]
    for group in study.build_surrogate(PARAMS, 0).param_groups("adamw", lr=0.5, weight_decay=decay):
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.5 * decay)


@pytest.mark.deepspeed
def test_its_best_settings_are_those_of_the_training(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_small_study(tmp_path)
    load_study(path).run(tmp_path)
    assert cli.main(["transfer", str(path), "--verify", "1"]) == 0
    file = tmp_path / "gpt.hydro/transfer/deepspeed.json"
    best = json.loads((file.parent / "settings.json").read_text(encoding="utf-8"))
    assert max(best["value"], best["target_value"]) < 5.5  # which is as good as nothing
    arguments = arguments_of(script, monkeypatch, "--lr=0.5", f"--deepspeed-config={file}")
    script.check_batch(arguments, replicas=1)
    merged = script.deepspeed_config(arguments)
    monkeypatch.setenv("WORLD_SIZE", "1")
    config = pytest.importorskip("deepspeed.runtime.config").DeepSpeedConfig(merged)
    assert config.train_batch_size == 16
    assert config.gradient_clipping == 1.0
    assert (
        config.optimizer_name
        == script.deepspeed_config(arguments_of(script, monkeypatch))["optimizer"]["type"].lower()
    )
    assert config.optimizer_params["weight_decay"] == script.WEIGHT_DECAY
    assert config.optimizer_params["lr"] == best["arguments"]["lr"]
    assert config.optimizer_params["betas"] == best["arguments"]["betas"]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_trials_end_in_a_bundle_as_alone(tmp_path: Path, metric: str) -> None:
    """By a metric of all tokens."""
    study = load_study(write_small_study(tmp_path, metric=metric))
    assert (study.direction == "minimize") == (metric == "loss")
    # Higher rates make of the last bit of a rounding a thousandth within these 20 steps.
    trials = [
        Trial(number=n, seed=n, params={**PARAMS, "lr": lr}) for n, lr in ((0, 3e-3), (1, 1e-3))
    ]
    expected = {trial.number: study.run_alone(trial.params, trial.seed) for trial in trials}
    folder, gate = new_folder(tmp_path, "whole"), OpenLane(tmp_path / "lane").gate()
    assert values(train_trials(study, folder, gate, trials)) == pytest.approx(expected, rel=1e-5)
