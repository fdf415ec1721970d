"""Each module of a bundle is timed in both forms, like ones once; the faster form is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.fusion import ExecutorKind, bind, choice, part_timing
from hydro_hpc.fusion.report import PartTime
from hydro_hpc.fusion.sample import Sample
from tests.hydro_hpc.fusion.architectures import build, vectors


def repeated() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6, bias=False)
    )


def workshop() -> choice.Workshop:
    torch.manual_seed(0)
    return choice.Workshop(build(repeated, 3), [1, 2, 3], Sample(args=(vectors(3),), kwargs={}))


def test_modules_with_parameters_are_timed_and_like_ones_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[nn.Module] = []

    def clock(part: nn.Module, args: tuple[Any, ...], _streams: object) -> float:
        part(*args)
        timed.append(part)
        return float(len(timed))

    monkeypatch.setattr(part_timing, "_time_ms", clock)
    found = workshop().times_of_parts()
    assert [(part.path, part.kind) for part in found] == [(p, "Linear") for p in ("0", "2", "4")]
    # The first takes an input without a gradient, the second one with it; the third has no bias.
    assert [part.grouped_ms for part in found] == [1.0, 3.0, 5.0]
    assert len(timed) == 6
    deeper = choice.Workshop(
        build(lambda: nn.Sequential(repeated(), *repeated()), 3),
        [1, 2, 3],
        Sample(args=(vectors(3),), kwargs={}),
    )
    timed.clear()
    assert len(deeper.times_of_parts()) == 6
    assert len(timed) == 6


def part(path: str, grouped_ms: float, per_slot_ms: float) -> PartTime:
    return PartTime(path=path, kind="Conv2d", grouped_ms=grouped_ms, per_slot_ms=per_slot_ms)


def test_a_module_runs_one_by_one_where_that_is_clearly_faster() -> None:
    found = choice.faster_one_by_one(
        [part("a", 2.0, 1.0), part("b", 1.0, 0.9), part("c", 1.0, 2.0)]
    )
    assert found == {"a": "faster: 2 ms for all slots at once, 1 ms one by one"}


def test_what_is_faster_one_by_one_becomes_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(timed: nn.Module, _args: object, _streams: object) -> float:
        return 2.0 if isinstance(timed, part_timing.Fused) else 1.0

    monkeypatch.setattr(part_timing, "_time_ms", clock)
    monkeypatch.setattr(choice, "step_times_ms", lambda makers, *_: range(1, len(makers) + 1))
    models = build(repeated, 3)
    bundle = bind(models, example=vectors(), choices=())
    report = bundle.report
    assert report.executor is ExecutorKind.GROUPED
    assert list(report.one_by_one) == ["0", "2", "4"]
    assert report.candidates[0].name == "grouped, 3 modules one by one"
    assert set(report.per_slot) == {"0", "2", "4"}
    x = vectors(3)
    bundle.eval()
    for slot, model in enumerate(models):
        torch.testing.assert_close(bundle(x)[slot], model.eval()(x[slot]), rtol=1e-10, atol=1e-10)
