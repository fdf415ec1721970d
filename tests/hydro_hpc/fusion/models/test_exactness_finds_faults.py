"""The harness fails where it should: each executor below is wrong in one way, and unverified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, choice
from hydro_hpc.fusion.executor import Executor
from hydro_hpc.fusion.grouped import GroupedExecutor
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.loop import LoopExecutor
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.nn.randomness import SlotStreams
from tests.hydro_hpc.fusion.models import survey
from tests.hydro_hpc.fusion.models.exactness import hold_to_exactness, hold_to_its_slot
from tests.hydro_hpc.fusion.models.registry import ARCHITECTURES

EXECUTORS: dict[ExecutorKind, type[Any]] = {
    ExecutorKind.GROUPED: GroupedExecutor,
    ExecutorKind.LOOP: LoopExecutor,
}
Run = Callable[[Executor, InputForm], Any]


def changed_outputs(change: Callable[[Tensor], Tensor]) -> Callable[[Run], Run]:
    def wrong(right: Run) -> Run:
        def run(self: Executor, form: InputForm) -> Any:
            return pytree.tree_map_only(Tensor, change, right(self, form))

        return run

    return wrong


def before(act: Callable[[Any], None]) -> Callable[[Run], Run]:
    def wrong(right: Run) -> Run:
        def run(self: Executor, form: InputForm) -> Any:
            act(self)
            return right(self, form)

        return run

    return wrong


@torch.no_grad()
def average_a_parameter(executor: Any) -> None:
    stacked = executor.state.stacked[min(executor.state.trainable)]
    stacked.copy_(stacked.mean(0, keepdim=True).expand_as(stacked))


@torch.no_grad()
def pass_statistics_on(executor: Any) -> None:
    for name, tensor in executor.state.stacked.items():
        if name.endswith("running_mean"):
            tensor.copy_(tensor.roll(1, 0))


def share_an_attribute(executor: Any) -> None:
    first, *others = executor.state.slot_models
    for model in others:
        model.offset = first.offset


def zero_for_absent(right: Run) -> Run:
    def run(self: Executor, form: InputForm) -> Any:
        leaves = [self.leaf(name) for name in self.state.trainable]  # type: ignore[attr-defined]
        rows = [row for leaf in leaves for row in (leaf if isinstance(leaf, list) else [leaf])]
        nothing = torch.stack([row.sum() for row in rows]).sum() * 0
        return right(self, form) + nothing

    return run


# What is wrong: (model, how, where the harness says it).
WRONG_RUNS: dict[str, tuple[str, Callable[[Run], Run], str]] = {
    "two slots swapped": ("mlp", changed_outputs(lambda x: x[[1, 0, 2]]), "step 0, slot 0: "),
    "ninth digit": ("mlp", changed_outputs(lambda x: x * (1 + 1e-9)), "step 0, slot 0: "),
    "mean loss": ("mlp", changed_outputs(lambda x: x / 3 + (x - x / 3).detach()), "gradient of"),
    "averaged parameter": ("mlp", before(average_a_parameter), "step 0, slot 0: "),
    "statistics mixed up": ("cnn", before(pass_statistics_on), "evaluation, slot 0: "),
    "zero for absent": ("routed_by_constant", zero_for_absent, "gradient of branches.a"),
}


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.value)
@pytest.mark.parametrize("fault", WRONG_RUNS)
def test_a_wrong_executor_is_found(
    fault: str, kind: ExecutorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, wrong, where = WRONG_RUNS[fault]
    monkeypatch.setattr(EXECUTORS[kind], "run", wrong(EXECUTORS[kind].run))
    with pytest.raises(AssertionError, match=where):
        hold_to_exactness(ARCHITECTURES[name], kind)


def one_mask_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SlotStreams.key
    monkeypatch.setattr(SlotStreams, "key", lambda self, _slot: right(self, 0))


def the_same_masks_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SlotStreams.advance
    monkeypatch.setattr(SlotStreams, "advance", lambda self, on: right(self, [False] * len(on)))


def training_goes_on_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "train", lambda self, _mode=True: self)


def one_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    right = optim.SGD._update

    def update(self: optim.SGD, *args: Any) -> None:
        lr = self._hyper["lr"]  # [slots, groups]
        self._hyper["lr"] = lr.mean(0, keepdim=True).expand_as(lr)
        right(self, *args)

    monkeypatch.setattr(optim.SGD, "_update", update)


def models_share_the_bundles_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StackedState, "extract", lambda self, slot: self.slot_models[slot])


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.value)
@pytest.mark.parametrize(
    ("break_it", "where"),
    [
        (one_mask_for_all, "step 0, slot 1: "),
        (the_same_masks_each_step, "step 1, slot 0: "),
        (training_goes_on_in_evaluation, "evaluation, slot 0: "),
        (one_learning_rate, "step 1, slot 0: "),
        (models_share_the_bundles_memory, "weight shares memory"),
    ],
)
def test_what_is_wrong_around_an_executor_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None],
    where: str,
    kind: ExecutorKind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch)
    with pytest.raises(AssertionError, match=where):
        hold_to_exactness(ARCHITECTURES["mlp_with_norms_and_dropout"], kind)


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.value)
def test_a_bundle_that_trains_the_users_own_models_is_found(
    kind: ExecutorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydro_hpc.fusion.binding.own_copy", lambda model, _who: model)
    with pytest.raises(AssertionError, match="slot 0: of the user's own model"):
        hold_to_exactness(ARCHITECTURES["mlp"], kind)


def test_a_shared_plain_attribute_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoopExecutor, "run", before(share_an_attribute)(LoopExecutor.run))
    with pytest.raises(AssertionError, match="step 0, slot 1: "):
        hold_to_exactness(ARCHITECTURES["plain_state"], ExecutorKind.LOOP)


def test_a_binding_that_runs_the_users_own_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusals_of(workshop: choice.Workshop, *rest: Any) -> Any:
        workshop.models[1](*ARCHITECTURES["plain_state"].batch().args)
        return right(workshop, *rest)

    right = choice.refusals_of
    monkeypatch.setattr(choice, "refusals_of", refusals_of)
    assert survey.verdict.__wrapped__("plain_state").changed == ("calls", "seen")


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.value)
def test_a_nan_that_reaches_a_neighbour_is_found(
    kind: ExecutorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, adding nothing times the neighbours changes no bit."""
    wrong = changed_outputs(lambda x: x + 0 * x.sum(0, keepdim=True))
    monkeypatch.setattr(EXECUTORS[kind], "run", wrong(EXECUTORS[kind].run))
    hold_to_exactness(ARCHITECTURES["mlp"], kind)
    with pytest.raises(AssertionError, match="slot 0"):
        hold_to_its_slot(ARCHITECTURES["mlp"], kind)


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.value)
def test_a_clip_over_all_slots_is_found(
    kind: ExecutorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = optim.SGD._update

    def update(self: optim.SGD, moments: Any, grad: Tensor) -> None:
        right(self, moments, grad * torch.clamp(1e6 / grad.norm(), max=1.0))

    monkeypatch.setattr(optim.SGD, "_update", update)
    with pytest.raises(AssertionError, match="slot 0"):
        hold_to_its_slot(ARCHITECTURES["mlp"], kind)
