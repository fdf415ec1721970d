"""Studies whose trials train surrogates: what they train, what they refuse, what they keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc import Study
from hydro_hpc.errors import StudyError
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.space import choice, integer, log_uniform, uniform
from hydro_hpc.surrogate import Narrow, shrink, table
from hydro_hpc.surrogate.table import FAMILIES, ONE, TABLE, Kind, Power
from tests.hydro_hpc.study.surrogates import SPACE, TARGET, WIDTH, Wide

MakeStudy = Callable[..., Study]


class Wider(Wide):
    def __init__(self, width: int = 2 * TARGET) -> None:
        super().__init__(width)


class Taller(Wide):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width, depth=2)


class FromElsewhere(Wide):
    """Of the same sizes, with another initialisation."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        nn.init.zeros_(self.layers[-1].weight)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of all models, as they are made."""
    widths: list[int] = []
    monkeypatch.setattr(Wide, "built", widths)
    return widths


def test_a_trial_trains_the_surrogate_by_its_rules(narrow_study: MakeStudy) -> None:
    made = narrow_study(metrics="loss", optimizer="sgd", space=SPACE | {"momentum": 0.9})
    data = made.data()
    torch.manual_seed(3)
    surrogate = shrink(Wide, width=WIDTH)
    found = made.build_surrogate({"lr": 0.05}, 3)
    assert found.rules == surrogate.rules
    for one, other in zip(found.module.parameters(), surrogate.module.parameters(), strict=True):
        assert torch.equal(one, other)
    model = surrogate.module
    optimizer = torch.optim.SGD(surrogate.param_groups("sgd", lr=0.05), momentum=0.9)
    for epoch in range(2):
        for rows in made.batch_indices({}, 3, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows]).backward()
            optimizer.step()
    expected = nn.functional.cross_entropy(model(data.test_x), data.test_y).item()
    assert made.run_alone({"lr": 0.05}, 3) == expected


def test_a_surrogate_of_the_targets_width_trains_as_the_target(narrow_study: MakeStudy) -> None:
    same = narrow_study(metrics="loss", surrogate=Narrow(by=1))
    target = narrow_study(metrics="loss", surrogate=None)
    assert same.run_alone({"lr": 0.05}, 3) == target.run_alone({"lr": 0.05}, 3)


@pytest.mark.parametrize("narrow", [Narrow(by=1), Narrow(width=TARGET)])
def test_surrogates_that_are_the_target_are_remarked(
    narrow_study: MakeStudy, narrow: Narrow
) -> None:
    [caution] = narrow_study(surrogate=narrow).cautions
    assert caution.startswith("these surrogates are the target itself, since they have its width:")


@pytest.mark.parametrize("by", [2, 3, 5, 8, 13])
def test_a_ratio_gives_the_widths_that_shrink_gives(narrow_study: MakeStudy, by: int) -> None:
    found = narrow_study(surrogate=Narrow(by=by)).build_surrogate({"lr": 0.1}, 0)
    expected = shrink(Wide, by=by)
    assert found.rules == expected.rules
    sizes = [[p.shape for p in one.module.parameters()] for one in (found, expected)]
    assert sizes[0] == sizes[1]


def test_the_target_is_the_users_model(narrow_study: MakeStudy) -> None:
    made = narrow_study()
    plain = narrow_study(surrogate=None)
    found, expected = made.build_target({"lr": 0.1}, 5), plain.build_model({"lr": 0.1}, 5)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert made.build_model({"lr": 0.1}, 5).get_submodule("layers.0").out_features == WIDTH


def test_the_target_is_built_once_for_all_trials_of_one_shape(
    narrow_study: MakeStudy, built: list[int]
) -> None:
    space = SPACE | {"depth": choice(1, 2), "slope": uniform(0.0, 0.3)}
    made = narrow_study(space=space, surrogate=Narrow(by=4))
    made.build_model({"lr": 0.1, "depth": 1, "slope": 0.1}, 0)
    made.build_model({"lr": 0.1, "depth": 2, "slope": 0.1}, 0)
    before = len(built)
    for seed in range(5):
        made.build_model({"lr": 0.1, "depth": 1 + seed % 2, "slope": seed / 20}, seed)
    assert built[before:] == [WIDTH] * 5


def test_sizes_that_follow_a_real_number_are_refused(narrow_study: MakeStudy) -> None:
    class Stretched(Wide):
        def __init__(self, width: int = TARGET, ratio: float = 1.0) -> None:
            super().__init__(int(width * ratio))

    made = narrow_study(model=Stretched, space=SPACE | {"ratio": uniform(1.0, 3.0)})
    with pytest.raises(StudyError, match="not of the size for which the surrogate's rules"):
        made.build_model({"lr": 0.1, "ratio": 1.5}, 0)


@pytest.mark.parametrize(
    "name",
    [
        "weight_decay",
        "dropout",
        "attn_dropout_p",
        "drop_path_rate",
        "resid_pdrop",
        "layerdrop",
        "grad_penalty",
        "label_smoothing",
        "l2",
        "stochastic_depth",
        "augment_strength",
    ],
)
def test_a_regularizer_is_searched_only_if_the_user_insists(
    narrow_study: MakeStudy, name: str
) -> None:
    def model(width: int = TARGET, **rest: float) -> nn.Module:
        del rest
        return Wide(width)

    space = SPACE | {name: uniform(0.1, 0.5)}
    with pytest.raises(StudyError, match=f"'{name}' is searched .* not the target's: how much"):
        narrow_study(model=model, space=space)
    made = narrow_study(model=model, space=space, surrogate=Narrow(width=WIDTH, also=(name,)))
    assert [line for line in made.cautions if name in line]
    narrow_study(model=model, space=SPACE | {name: 0.1}, optimizer="adamw")  # a constant


@pytest.mark.parametrize(
    "space",
    [
        {"lr": log_uniform(1e-3, 1e-1), "beta1": uniform(0.8, 0.9), "eps": 1e-7},
        {"lr": log_uniform(1e-3, 1e-1), "slope": uniform(0.0, 0.3), "depth": integer(1, 3)},
    ],
)
def test_what_transfers_is_searched_without_a_word(
    narrow_study: MakeStudy, space: dict[str, Any]
) -> None:
    assert narrow_study(space=space).cautions == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"space": SPACE | {"width": choice(4, 8)}}, "the space has 'width', which the surrogate"),
        ({"space": SPACE | {"width": 16}}, "the space has 'width'"),
        ({"model": lambda: Wide(), "space": SPACE}, "no argument width="),
        ({"model": lambda width: Wide(width)}, "needs 'width'"),
        ({"surrogate": {"width": 64}}, "surrogate= is of type dict"),
    ],
)
def test_a_study_that_cannot_have_surrogates_is_refused(
    narrow_study: MakeStudy, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StudyError, match=sentence):
        narrow_study(**changes)


@pytest.mark.parametrize(
    ("narrow", "sentence"),
    [
        ({}, "takes width= or by=, one of them"),
        ({"width": 8, "by": 4}, "takes width= or by=, one of them"),
        ({"width": 1}, "width=1.* 2 or more"),
        ({"by": 32}, r"^Narrow\(\): by=32 leaves 1 of the 32 units of .*; divide by 16 or "),
        ({"by": 99}, "leaves 0.323 of the 32 units"),
        ({"width": 33}, "width=33.* is wider than the target, whose width is 32 by the model's de"),
        ({"width": 8, "target_epochs": 0}, "target_epochs=0"),
        ({"width": 8, "unproven": "no"}, "unproven='no'"),
        ({"width": 8, "also": "dropout"}, "give names"),
        ({"width": 8, "also": ("dropout",)}, "'dropout', which the study does not search"),
    ],
)
def test_narrow_that_cannot_be_is_refused(
    narrow_study: MakeStudy, narrow: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StudyError, match=sentence):
        narrow_study(surrogate=Narrow(**narrow))


def test_an_optimizer_without_a_rule_is_refused_when_the_study_is_defined(
    narrow_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "adagrad")
    with pytest.raises(StudyError, match="'adagrad'"):
        narrow_study(optimizer="adagrad")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"space": SPACE | {"batch_size": choice(8, 16)}, "batch_size": None}, "batch_size is"),
        (
            {"space": SPACE | {"clip_norm": choice(None, 0.1)}},
            "clip_norm cuts gradients by their size, which is",
        ),
        ({"space": SPACE | {"clip_value": 1.0}}, "clip_value cuts gradients by their size"),
        ({"space": SPACE | {"eps": log_uniform(1e-9, 1e-6)}}, "eps is added to the size of gradi"),
        (
            {"space": SPACE | {"initial_accumulator_value": 0.1}, "optimizer": "adagrad"},
            "initial_accumulator_value is added to the size of gradients, which is larger",
        ),
        ({"space": SPACE | {"weight_decay": 0.1}}, "adam has weight decay as part of the gradient"),
        (
            {"surrogate": Narrow(width=WIDTH, target_epochs=90)},
            "another horizon, 2 epochs and the target for 90:",
        ),
        (
            {"surrogate": Narrow(width=WIDTH, target_batch_size=64)},
            "another horizon, batches of 16 and the target with 64:",
        ),
    ],
)
def test_what_the_rules_do_not_vouch_for_is_said(
    narrow_study: MakeStudy, changes: dict[str, Any], sentence: str
) -> None:
    [caution] = narrow_study(**changes).cautions
    assert sentence in caution


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_constant_weight_decay_that_the_factors_keep_is_fine(
    narrow_study: MakeStudy, optimizer: str
) -> None:
    assert narrow_study(space=SPACE | {"weight_decay": 0.1}, optimizer=optimizer).cautions == []


def test_a_run_says_what_is_trained_and_keeps_the_rules(
    narrow_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    surrogate = Narrow(width=WIDTH, target_epochs=10)
    results = narrow_study(optimizer="adamw", surrogate=surrogate).run(tmp_path)
    assert results.completed == 5
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == (
        "study small: trials train surrogates of width 8 of 32 for 2 epochs in batches of 16 "
        "(8 steps); the target's horizon is 10 epochs in batches of 16 (40 steps)"
    )
    assert "another horizon" in second
    [path] = StudyFolder(tmp_path, "small").rules.iterdir()
    kept = json.loads(path.read_text())
    assert (kept["width"], kept["target_width"], kept["optimizer"]) == (WIDTH, TARGET, "adamw")
    hidden, head = (kept["parameters"][f"layers.{n}.weight"] for n in ("1.0", "2"))
    assert (hidden["kind"], hidden["m_in"], hidden["lr"]) == ("hidden weight", 0.25, 4.0)
    assert (hidden["weight_decay"], hidden["in_mult"]) == (0.25, 1.0)
    assert (head["kind"], head["lr"], head["in_mult"]) == ("output weight", 1.0, 4.0)
    assert kept["input_multipliers"] == {"layers.2": 4.0}


def test_another_process_builds_by_the_kept_rules(
    narrow_study: MakeStudy, tmp_path: Path, built: list[int]
) -> None:
    before = narrow_study(metrics="loss")
    before.keep_rules(tmp_path / "rules")
    value = before.run_alone({"lr": 0.05}, 3)
    built.clear()
    after = narrow_study(metrics="loss")
    after.keep_rules(tmp_path / "rules")
    assert after.run_alone({"lr": 0.05}, 3) == value
    assert set(built) == {WIDTH}


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Wider, "its widths differs"),
        (Taller, r"'layers\.2\.0\.bias' differs"),
        (FromElsewhere, r"'layers\.2\.weight' differs"),
    ],
)
def test_a_changed_model_is_one_sentence(
    narrow_study: MakeStudy, tmp_path: Path, model: type[nn.Module], sentence: str
) -> None:
    narrow_study().run(tmp_path)
    rules = StudyFolder(tmp_path, "small").rules
    changed = narrow_study(model=model)
    changed.keep_rules(rules)
    with pytest.raises(StudyError, match=sentence):  # found there
        changed.build_model({"lr": 0.1}, 0)
    changed = narrow_study(model=model)
    changed.build_model({"lr": 0.1}, 0)
    with pytest.raises(StudyError, match=sentence):  # made before
        changed.keep_rules(rules)


def test_a_study_of_other_surrogates_is_another_study(
    narrow_study: MakeStudy, tmp_path: Path
) -> None:
    narrow_study().run(tmp_path)
    with pytest.raises(StudyError, match=r"holds a study of another settings \(surrogate\);"):
        narrow_study(surrogate=Narrow(width=16)).run(tmp_path)
    horizon = Narrow(width=WIDTH, target_epochs=90)
    assert narrow_study(surrogate=horizon).run(tmp_path).completed == 5  # no value depends on that


@pytest.mark.parametrize(
    ("written", "damage"),
    [
        ("", "{"),
        ("", "{}"),
        ('"m_in": 0.25', '"m_in": 0.5'),
        ('"initial": 1.0', '"initial": 3.0'),
        ('"layers.2": 4.0', '"layers.2": 2.0'),
    ],
)
def test_rules_that_are_not_as_they_were_written_are_one_sentence(
    narrow_study: MakeStudy, tmp_path: Path, written: str, damage: str
) -> None:
    """Another multiplier, or spread at the start, shows in no other way."""
    narrow_study().run(tmp_path)
    [path] = StudyFolder(tmp_path, "small").rules.iterdir()
    text = path.read_text()
    assert written in text
    path.write_text(text.replace(written, damage) if written else damage)
    with pytest.raises(StudyError, match=r"is not as it was written, .* or remove it, and the"):
        narrow_study().run(tmp_path)
    path.unlink()
    assert narrow_study().run(tmp_path).completed == 5
    assert path.read_text() == text


def test_rules_of_another_table_are_one_sentence(
    narrow_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow_study().run(tmp_path)
    other = {**TABLE, Kind.HIDDEN: replace(TABLE[Kind.HIDDEN], adam_lr=ONE, sgd_lr=Power(into=3))}
    monkeypatch.setattr(table, "TABLE", other)
    with pytest.raises(StudyError, match=r"rules of surrogates that this version can use; give"):
        narrow_study().run(tmp_path)


def test_a_study_without_surrogates_has_none_to_build(narrow_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="the study has no surrogate"):
        narrow_study(surrogate=None).build_surrogate({"lr": 0.1}, 0)


def test_a_model_without_rules_is_one_sentence(narrow_study: MakeStudy) -> None:
    def layered(width: int = TARGET) -> nn.Module:
        return nn.Sequential(*(nn.Linear(4, 4) for _ in range(width // 8)), nn.Linear(4, 2))

    with pytest.raises(StudyError, match=r"no surrogate of the study's model: .* one width only"):
        narrow_study(model=layered).check()


def test_a_study_says_what_shrinks(narrow_study: MakeStudy) -> None:
    assert narrow_study().narrowed({"lr": 0.1}) == ["layers.0.weight and 4 more: 32 -> 8"]


def test_rules_that_cannot_be_kept_are_one_sentence(
    narrow_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    study = narrow_study()
    study.keep_rules(tmp_path / "rules")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StudyError, match=r"rules cannot be written \(No space left on device\)"):
        study.build_model({"lr": 0.1}, 0)
