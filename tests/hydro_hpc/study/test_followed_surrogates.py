"""Studies whose model has no argument for its width: its surrogates are followed."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import Study
from hydro_hpc.errors import StudyError
from hydro_hpc.fusion import bind
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.space import choice, log_uniform, uniform
from hydro_hpc.surrogate import Narrow, by_trace

MakeStudy = Callable[..., Study]
SPACE = {"lr": log_uniform(1e-3, 1e-1)}


class Plain(nn.Module):
    """[batch, 4] -> logits [batch, 2]; its widths are in its code alone."""

    def __init__(self, hidden: int = 32, slope: float = 0.1) -> None:
        super().__init__()
        self.into = nn.Linear(4, 48)
        self.hidden = nn.Linear(48, hidden)
        self.act = nn.LeakyReLU(slope)
        self.out = nn.Linear(hidden, 2)
        self.again = lambda x: self.hidden(self.act(self.into(x)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.act(self.again(x)))
        return logits


class FromElsewhere(Plain):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.hidden.bias)


@pytest.fixture
def study(small_study: MakeStudy) -> MakeStudy:
    def make(**changes: Any) -> Study:
        facts: dict[str, Any] = {"model": Plain, "space": SPACE, "surrogate": Narrow(by=4)}
        return small_study(**(facts | changes))

    return make


def test_a_trial_trains_a_surrogate_that_was_followed(study: MakeStudy) -> None:
    made = study(metrics="loss", optimizer="sgd")
    data = made.data()
    plan = by_trace.plan_of(Plain(), 4, data.train_x[:16])
    torch.manual_seed(3)
    expected = plan.follow(Plain())
    found = made.build_surrogate({"lr": 0.05}, 3)
    assert found.rules == expected.rules
    assert found.module.get_submodule("hidden").weight.shape == (8, 12)
    for one, other in zip(found.module.parameters(), expected.module.parameters(), strict=True):
        assert torch.equal(one, other)
    model = expected.module
    optimizer = torch.optim.SGD(expected.param_groups("sgd", lr=0.05))
    for epoch in range(2):
        for rows in made.batch_indices({}, 3, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows]).backward()
            optimizer.step()
    value = nn.functional.cross_entropy(model(data.test_x), data.test_y).item()
    assert made.run_alone({"lr": 0.05}, 3) == value


def test_followed_by_one_it_trains_as_the_target(study: MakeStudy) -> None:
    same = study(metrics="loss", surrogate=Narrow(by=1))
    target = study(metrics="loss", surrogate=None)
    assert same.run_alone({"lr": 0.05}, 3) == target.run_alone({"lr": 0.05}, 3)


def test_surrogates_that_were_followed_are_bound_into_a_bundle(study: MakeStudy) -> None:
    made = study()
    models = [made.build_model({"lr": 0.1}, seed) for seed in range(3)]
    x, y = made.data().train_x[:16], made.data().train_y[:16]
    alone = [model(x) for model in models]
    bundle = bind(models, example=(x, y), loss=made.loss)
    torch.testing.assert_close(bundle.shared(x), torch.stack(alone))
    assert bundle.report.executor != "loop"


def test_the_call_is_followed_once_for_each_shape(
    study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[nn.Module] = []
    plan_of = by_trace.plan_of

    def counted(model: nn.Module, *rest: Any, **named: Any) -> Any:
        followed.append(model)
        return plan_of(model, *rest, **named)

    monkeypatch.setattr(by_trace, "plan_of", counted)
    made = study(space=SPACE | {"hidden": choice(16, 32), "slope": uniform(0.0, 0.3)})
    sizes = set()
    for seed in range(6):
        params = {"lr": 0.1, "hidden": 16 + 16 * (seed % 2), "slope": seed / 20}
        model = made.build_model(params, seed)
        assert model.get_submodule("act").negative_slope == seed / 20
        sizes.add(model.get_submodule("hidden").out_features)
    assert (len(followed), sizes) == (2, {4, 8})


def test_nothing_of_the_target_stays_in_memory(study: MakeStudy) -> None:
    built: list[weakref.ref[Any]] = []

    def seen() -> nn.Module:
        model = Plain()
        built.extend(map(weakref.ref, [*model.modules(), *model.parameters()]))
        return model

    made = study(model=seen)
    models = [made.build_model({"lr": 0.1}, seed) for seed in range(2)]
    gc.collect()
    assert built
    assert not [one for one in built if one() is not None]
    assert models


def test_what_is_named_is_kept(study: MakeStudy) -> None:
    made = study(surrogate=Narrow(by=4, keep=("into",)))
    model = made.build_model({"lr": 0.1}, 0)
    assert model.get_submodule("hidden").weight.shape == (8, 48)
    with pytest.raises(StudyError, match=r"no surrogate .* keep= names 'inta', which is no module"):
        study(surrogate=Narrow(by=4, keep=("inta",))).check()


def test_the_rules_are_kept_and_another_process_follows_to_the_same(
    study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = study(metrics="loss")
    assert before.run(tmp_path).completed == 5
    said = capsys.readouterr().out.splitlines()[0]
    assert said == (
        "study small: trials train surrogates of 1/4 of the target's widths for 2 epochs in "
        "batches of 16 (8 steps); the target's horizon is the same"
    )
    [path] = StudyFolder(tmp_path, "small").rules.iterdir()
    kept = json.loads(path.read_text())
    assert (kept["by"], kept["keep"]) == (4, [])
    assert kept["parameters"]["hidden.weight"]["m_in"] == 0.25
    after = study(metrics="loss")
    after.keep_rules(path.parent)
    assert after.run_alone({"lr": 0.05}, 3) == before.run_alone({"lr": 0.05}, 3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": lambda: Plain(64)}, r"'hidden\.weight' differs"),
        ({"model": FromElsewhere}, r"'hidden\.bias' differs"),
        ({"surrogate": Narrow(by=2)}, "its widths differs"),
    ],
)
def test_a_changed_model_is_one_sentence(
    study: MakeStudy, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    before = study()
    before.keep_rules(tmp_path)
    before.check()
    changed = study(**changes)
    changed.keep_rules(tmp_path)
    with pytest.raises(StudyError, match=sentence):
        changed.check()


def test_sizes_that_follow_a_real_number_are_refused(study: MakeStudy) -> None:
    def stretched(ratio: float) -> nn.Module:
        return Plain(int(16 * ratio))

    made = study(model=stretched, space=SPACE | {"ratio": uniform(1.0, 3.0)})
    with pytest.raises(StudyError, match="not of the size for which the surrogate's rules"):
        made.build_model({"lr": 0.1, "ratio": 1.5}, 0)


def test_a_model_that_cannot_be_followed_is_one_sentence(study: MakeStudy) -> None:
    class Branches(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(StudyError, match=r"no surrogate of the study's model: .* line \d+"):
        study(model=Branches).check()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"surrogate": Narrow(width=8)}, r"no argument width= .* or Narrow\(by=8\), which follows"),
        (
            {"model": lambda width=32: Plain(width), "surrogate": Narrow(by=4, keep=("into",))},
            r"Narrow\(keep=\) is of models whose widths are followed",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(
    study: MakeStudy, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StudyError, match=sentence):
        study(**changes)


@pytest.mark.parametrize("names", ["into", (1,)])
def test_what_is_kept_is_named(names: Any) -> None:
    with pytest.raises(StudyError, match=r"Narrow\(keep=.*give names of modules"):
        Narrow(by=4, keep=names)


class Positions(nn.Module):
    """A raw parameter whose use its code hides."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.into = nn.Linear(4, width)
        self.table = nn.Parameter(torch.randn(4, width))
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = dict(self.named_parameters())
        logits: Tensor = self.out(self.into(x) + x @ parts["table"])
        return logits


def test_how_a_raw_parameter_is_used_is_seen_in_a_batch(study: MakeStudy) -> None:
    made = study(model=Positions)
    surrogate = made.build_surrogate({"lr": 0.1}, 0)
    assert surrogate.rules["table"] == surrogate.rules["into.weight"]
