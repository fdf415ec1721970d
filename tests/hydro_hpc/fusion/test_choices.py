"""Choices of executors are written down once, and repeated where they are still exact."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion import ExecutorKind, bind, choice, choices
from hydro_hpc.fusion.choices import ChoiceFolder, from_json, key_of, to_json, users_cache
from hydro_hpc.fusion.report import BundleReport, Candidate, PartTime
from hydro_hpc.fusion.sample import Sample
from tests.hydro_hpc.fusion.architectures import cnn, images, mlp, vectors

REPORT = BundleReport(
    slots=3,
    executor=ExecutorKind.GROUPED,
    reason="why",
    candidates=(Candidate(name="loop", refusal=None, step_ms=2.5),),
    per_slot={"0": "faster"},
    one_by_one={"0": "faster"},
    times=(PartTime(path="0", kind="Conv2d", grouped_ms=2.0, per_slot_ms=1.0),),
)


def key(make: Callable[[], nn.Module], slots: int, x: Tensor) -> str:
    return key_of([make() for _ in range(slots)], Sample(args=(x,), kwargs={}))


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    folder = ChoiceFolder(tmp_path / "new")
    folder.put("a", REPORT)
    assert folder.get("a") == REPORT
    assert from_json(to_json(REPORT)) == REPORT


def test_the_first_choice_stays(tmp_path: Path) -> None:
    folder = ChoiceFolder(tmp_path)
    folder.put("a", REPORT)
    folder.put("a", replace(REPORT, executor=ExecutorKind.LOOP))
    assert folder.get("a") == REPORT
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"executor": "magic"}'])
def test_what_cannot_be_read_is_not_there(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert ChoiceFolder(tmp_path).get("a") is None


def test_a_folder_that_cannot_be_written_stands_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = ChoiceFolder(tmp_path / "file" / "below")
    folder.put("a", REPORT)
    assert folder.get("a") is None


def test_keys_tell_apart_what_runs_differently() -> None:
    x = vectors(3)
    keys = [
        key(mlp, 3, x),
        key(mlp, 4, vectors(4)),
        key(mlp, 3, x[:, :2]),
        key(mlp, 3, x.float()),
        key(lambda: mlp().double(), 3, x),
        key(lambda: nn.Sequential(*mlp(), nn.ReLU()), 3, x),
    ]
    assert len(set(keys)) == len(keys)
    assert key(mlp, 3, x) == key(mlp, 3, x * 2)


class Scaled(nn.Module):
    """Says nothing of its factor, and has another class of the same name beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


class Edited(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 2 * self.fc(x)
        return out


Edited.__name__, Edited.__qualname__ = "Scaled", "Scaled"


def frozen() -> nn.Module:
    model = Scaled()
    model.fc.bias.requires_grad_(False)
    return model


def test_keys_tell_apart_what_the_users_code_does() -> None:
    x = vectors(3)
    keys = [key(Scaled, 3, x), key(Edited, 3, x), key(frozen, 3, x)]
    assert len(set(keys)) == len(keys)
    models = [Scaled() for _ in range(3)]
    losses = [
        None,
        nn.CrossEntropyLoss(),
        nn.functional.cross_entropy,
        lambda o, t: nn.functional.cross_entropy(o, t),
        lambda o, t: nn.functional.cross_entropy(2 * o, t),
        functools.partial(apply, nn.functional.cross_entropy),
        functools.partial(apply, lambda o, t: (o - t).sum()),
    ]
    samples = [Sample(args=(x,), kwargs={}, targets=x, loss=loss) for loss in losses]
    keys = [key_of(models, sample) for sample in samples]
    assert len(set(keys)) == len(keys)
    assert key_of(models, replace(samples[1], loss=nn.CrossEntropyLoss())) == keys[1]


def apply(loss: Callable[..., Tensor], output: Tensor, targets: Tensor) -> Tensor:
    return loss(output, targets)


def noisy(output: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output + torch.randn_like(output), targets)


def mistyped(*_: Tensor) -> Tensor:
    raise ValueError("a mistake")


@pytest.mark.parametrize("loss", [noisy, mistyped])
def test_only_a_choice_among_verified_ways_is_written_down(
    tmp_path: Path, loss: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, x = [mlp().double() for _ in range(3)], vectors()
    y = torch.zeros(len(x), dtype=torch.long)
    bundle = bind(models, (x, y), loss, choices=[tmp_path])
    assert bundle.report.executor is ExecutorKind.LOOP
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(choices, "code_of", lambda _: [])  # whatever the key says of the loss
    good = bind(models, (x, y), nn.functional.cross_entropy, choices=[tmp_path / "good"])
    [file] = (tmp_path / "good").iterdir()
    kept = file.read_text()
    bundle = bind(models, (x, y), loss, choices=[tmp_path / "good"])
    assert bundle.report != good.report
    assert file.read_text() == kept


def test_a_failure_is_not_written_beside_a_choice_that_it_equals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "code_of", lambda _: [])
    models, x = [mlp().double() for _ in range(3)], vectors()
    name = key_of(models, Sample.of_one_model((x, x), mistyped, 3))
    ChoiceFolder(tmp_path / "a").put(
        name, replace(REPORT, executor=ExecutorKind.LOOP, one_by_one={}, per_slot={})
    )
    bundle = bind(models, (x, x), mistyped, choices=[tmp_path / "b", tmp_path / "a"])
    assert "a mistake" in bundle.report.reason
    assert not (tmp_path / "b").exists()


def test_a_choice_is_repeated_without_being_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [mlp().double() for _ in range(3)]
    first = bind(models, example=vectors(), choices=[tmp_path])
    monkeypatch.setattr(choice, "step_times_ms", lambda *_: pytest.fail("timed again"))
    again = bind([mlp().double() for _ in range(3)], example=vectors(), choices=[tmp_path])
    assert again.report == first.report


@pytest.mark.parametrize("kind", list(ExecutorKind))
def test_a_recorded_choice_is_taken_whatever_is_faster(tmp_path: Path, kind: ExecutorKind) -> None:
    models = [mlp().double() for _ in range(3)]
    x = vectors()
    name = key_of(models, Sample.of_one_model(x, None, 3))
    recorded = replace(REPORT, executor=kind, one_by_one={}, per_slot={})
    ChoiceFolder(tmp_path).put(name, recorded)
    bundle = bind(models, example=x, choices=[tmp_path])
    assert bundle.report == recorded


def test_modules_that_were_faster_one_by_one_are_so_again(tmp_path: Path) -> None:
    models = [cnn().double() for _ in range(3)]
    x = images()
    name = key_of(models, Sample.of_one_model(x, None, 3))
    ChoiceFolder(tmp_path).put(name, replace(REPORT, one_by_one={"0": "a", "4": "b"}))
    bundle = bind(models, example=x, choices=[tmp_path])
    calls: list[str] = []
    for slot, model in enumerate(bundle.state.slot_models):
        for path in ("0", "1", "4"):
            hook = calls.append
            name = f"{slot} {path}"
            model.get_submodule(path).register_forward_pre_hook(lambda *_, n=name, h=hook: h(n))
    given = images(3)
    found = bundle(given)
    assert sorted(calls) == [f"{slot} {path}" for slot in range(3) for path in ("0", "4")]
    for slot, model in enumerate(models):
        torch.testing.assert_close(found[slot], model(given[slot]), rtol=1e-10, atol=1e-10)


def test_a_recorded_choice_that_is_not_exact_any_more_is_not_taken(tmp_path: Path) -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return y if y.sum() > 0 else 2 * y

    models = [Decides().double() for _ in range(3)]
    name = key_of(models, Sample.of_one_model(vectors(), None, 3))
    ChoiceFolder(tmp_path).put(name, replace(REPORT, one_by_one={}))
    bundle = bind(models, example=vectors(), choices=[tmp_path])
    assert bundle.report.executor is ExecutorKind.LOOP
    assert "cannot be traced" in bundle.report.reason


def test_the_cache_is_in_the_users_home_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind([mlp() for _ in range(2)], example=vectors().float())
    assert len(list((tmp_path / "cache/hydro/choices").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/nowhere")
    assert users_cache() == Path("/nowhere/.cache/hydro/choices")
