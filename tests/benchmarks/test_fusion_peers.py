"""Which ways of training trials get a time beside ours."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fusion import peer_ratio
from benchmarks.fusion_models import CASES, Case
from benchmarks.fusion_peers import Convolutions, Perceptrons, array_of, library
from benchmarks.fusion_rows import agreeing
from benchmarks.fusion_ways import Batches, RefusedError, Step, separate, stacked_vmap
from benchmarks.result_file import Figure, NotTaken

CASE = CASES["cnn"]


def batches_of(case: Case, slots: int) -> Batches:
    torch.manual_seed(0)
    return [case.batch() for _ in range(slots)]


def mean_over_trials(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
    """What Hydro's examples do: every trial's gradient is divided by their number."""
    rates = {**case.settings, "lr": case.settings["lr"] / len(batches)}
    optimizers = [torch.optim.SGD(model.parameters(), **rates) for model in models]

    def step() -> list[Tensor]:
        losses = [F.cross_entropy(m(x), y) for m, (x, y) in zip(models, batches, strict=True)]
        torch.stack(losses).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return losses

    return step


def test_way_that_trains_as_separate_models_is_timed() -> None:
    ways = {"separate": separate, "vmap(grad)": stacked_vmap}
    steps, refusals = agreeing(ways, CASE, batches_of(CASE, 2))
    assert (list(steps), refusals) == (["separate", "vmap(grad)"], {})


def test_way_with_other_losses_than_separate_models_has_no_time() -> None:
    ways = {"separate": separate, "mean": mean_over_trials}
    steps, refusals = agreeing(ways, CASE, batches_of(CASE, 2))
    assert list(steps) == ["separate"]
    assert refusals["mean"].startswith("in step 2 the loss of trial 0 is")


def test_our_own_way_with_other_losses_ends_the_benchmark() -> None:
    with pytest.raises(RefusedError, match="in step 2"):
        agreeing({"separate": separate, "ours": mean_over_trials}, CASE, batches_of(CASE, 2))


def test_library_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(RefusedError, match=r"^no_such_library is not importable$"):
        library("no_such_library.ops")


def test_model_that_nobody_wrote_with_a_library_is_refused() -> None:
    with pytest.raises(RefusedError, match="nobody has written this model"):
        array_of([CASES["gpt"].make()], lambda kind: kind)


def test_models_are_written_as_the_benchmark_has_them() -> None:
    """With torch's own classes for a library's: the same parameters in the same order."""

    def shapes(model: nn.Module) -> list[torch.Size]:
        return [p.shape for p in model.parameters()]

    assert shapes(Perceptrons(lambda kind: kind, 64, 256, 256, 10)) == shapes(
        CASES["mlp 256"].make()
    )
    assert shapes(Convolutions(lambda kind: kind)) == shapes(CASE.make())


def test_least_ratio_is_against_the_best_peer_of_each_model() -> None:
    def ratio(median: float) -> dict[str, float]:
        return {"low": median, "median": median, "high": median, "n": 3}

    rows = [
        {"model": "a", "against": {"vmap(grad)": ratio(3.0), "hfta": ratio(2.0)}},
        {"model": "b", "against": {"separate, fused=True": ratio(0.5), "hydro": ratio(2.5)}},
    ]
    found = peer_ratio(rows)
    assert isinstance(found, Figure)
    assert (found.median, found.unit) == (2.0, "times as fast, quartiles (a, hfta)")


def test_least_ratio_is_not_taken_where_no_peer_ran() -> None:
    assert isinstance(peer_ratio([{"model": "a", "against": {}}]), NotTaken)
