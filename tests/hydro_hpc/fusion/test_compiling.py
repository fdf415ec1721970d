"""Forwards that torch compiles: asked for, verified like any other way, kept if faster."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hydro_hpc.fusion import ExecutorKind, bind, choice
from hydro_hpc.fusion.choice import FASTER, Way, Wish, Workshop, choose
from hydro_hpc.fusion.sample import Sample
from tests.hydro_hpc.fusion.architectures import mlp, vectors

# torch's compiler warns of its own modules.
pytestmark = pytest.mark.filterwarnings("ignore")
SLOTS = 3
GROUPED, COMPILED = Way(kind=ExecutorKind.GROUPED), Way(kind=ExecutorKind.GROUPED, compiled=True)


def workshop() -> Workshop:
    models = [mlp().double() for _ in range(SLOTS)]
    return Workshop(models, range(SLOTS), Sample(args=(vectors(SLOTS),), kwargs={}))


@pytest.fixture
def compiled_graphs(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The graphs given to torch, which compiles them here without a C++ compiler."""
    given: list[nn.Module] = []

    def compile_eagerly(graph: nn.Module) -> object:
        given.append(graph)
        return compile_(graph, backend="aot_eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    return given


@pytest.mark.parametrize("is_faster", [True, False])
def test_it_is_kept_only_if_it_is_faster(
    compiled_graphs: list[nn.Module], monkeypatch: pytest.MonkeyPatch, is_faster: bool
) -> None:
    ratio = FASTER * (0.9 if is_faster else 1.1)

    def times_ms(_self: Workshop, ways: list[Way]) -> dict[str, float]:
        return {way.name: ratio if way.compiled else 1.0 + (way != GROUPED) for way in ways}

    monkeypatch.setattr(Workshop, "times_ms", times_ms)
    way, report = choose(workshop(), Wish(compiles=True))
    assert way == (COMPILED if is_faster else GROUPED), str(report)
    assert report.compiled is is_faster
    assert ("compiled" in str(report).splitlines()[0]) is is_faster
    assert compiled_graphs


def test_nothing_is_compiled_that_nobody_asked_for(compiled_graphs: list[nn.Module]) -> None:
    bind([mlp().double() for _ in range(SLOTS)], example=vectors(), choices=())
    assert not compiled_graphs


def test_what_computes_something_else_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph: lambda x: graph.forward(x) * 1.01)
    way, report = choose(workshop(), Wish(compiles=True))
    assert not way.compiled
    refusals = {one.name: one.refusal for one in report.candidates}
    assert "differs from separate models" in str(refusals["grouped, compiled"])


def test_what_cannot_be_compiled_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_compiler(_graph: nn.Module) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", without_compiler)
    way, report = choose(workshop(), Wish(compiles=True))
    assert not way.compiled
    refusals = {one.name: one.refusal for one in report.candidates}
    assert "no compiler" in str(refusals["grouped, compiled"])


def test_a_compiled_bundle_trains_as_separate_models_do(compiled_graphs: list[nn.Module]) -> None:
    models = [mlp().double() for _ in range(SLOTS)]
    bundle = bind(models, executor=ExecutorKind.GROUPED, choices=())
    bundle._wish = choice.Wish(way=COMPILED)
    for rows in (5, 2):
        x = vectors(SLOTS)[:, :rows]
        bundle.zero_grad()
        bundle(x).square().sum().backward()
        [gradient] = bundle.gradients()
        for slot, model in enumerate(models):
            model.zero_grad()
            model(x[slot]).square().sum().backward()
            right = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            own = gradient.values[slot]
            assert torch.allclose(own.sort().values, right.sort().values, rtol=1e-9)
    assert bundle.report.compiled
    assert compiled_graphs
