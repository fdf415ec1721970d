"""Holds a bundle to exactness: each slot as the same trial alone, step by step, to rounding.

The oracle is models as the user makes them, which no copy has touched: what a copy loses (a hook,
say) would be lost on both sides of a comparison between copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.fusion import ExecutorKind
from tests.hydro_hpc.fusion.models.architecture import Architecture, Batch
from tests.hydro_hpc.fusion.models.trials import (
    SLOTS,
    BundledTrials,
    Gradients,
    OrdinaryTrial,
    Step,
    double_precision,
    shortened,
)
from tests.hydro_hpc.fusion.separate_training import TOLERANCE

STEPS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAlone:
    """What came of an architecture's trials, each on its own, by slot; to be looked at only."""

    steps: Sequence[list[Step]]
    evaluated: Sequence[Any]
    models: Sequence[nn.Module]


@lru_cache(maxsize=1)  # the executors of one architecture are tested in turn
def train_alone(architecture: Architecture) -> TrainedAlone:
    with double_precision(seed=1):
        models = [architecture.make() for _ in range(SLOTS)]
        trials = [OrdinaryTrial(architecture, model, slot) for slot, model in enumerate(models)]
        steps = []
        for number in range(STEPS + 1):
            pairs = zip(trials, batches_of(architecture, number), strict=True)
            steps.append([trial.train(batch) for trial, batch in pairs])
        pairs = zip(trials, batches_of(architecture, STEPS + 1), strict=True)
        evaluated = [trial.evaluate(batch) for trial, batch in pairs]
    return TrainedAlone(steps=steps, evaluated=evaluated, models=models)


def batches_of(architecture: Architecture, number: int) -> list[Batch]:
    """By slot, those of a training step, of which the last are short, or at last of the evaluation.
    To be drawn right before, as in a script: a model may read what drawing them has set.
    """
    torch.manual_seed(number)
    batches = [architecture.batch() for _ in range(SLOTS)]
    return [shortened(batch) for batch in batches] if number == STEPS else batches


def hold_to_exactness(
    architecture: Architecture, kind: ExecutorKind, *, channels_last: bool = False
) -> None:
    """Trains the trials both ways, the bundle under this executor; AssertionError where they
    differ, or where the bundle changed the models that it was made of."""
    alone = train_alone(architecture)
    with double_precision(seed=1):
        models = [architecture.make() for _ in range(SLOTS)]
        before = [everything(model) for model in models]
        fused = BundledTrials(architecture, models, kind, channels_last=channels_last)
        _compare_training(architecture, fused, alone)
        _compare_evaluation(architecture, fused, alone)
        ended = ExecutorKind.LOOP if kind in architecture.falls else kind
        assert fused.bundle.report.executor is ended, fused.bundle.report
        _compare_what_comes_out(architecture, fused, alone)
        for slot, model in enumerate(models):
            names = changed(before[slot], everything(model))
            assert not names, f"slot {slot}: of the user's own model {names} changed"


def hold_to_its_slot(architecture: Architecture, kind: ExecutorKind, sick: int = 1) -> None:
    """NaN weights in one slot change no bit of the others, in three steps; AssertionError if so."""
    well, ill = (_train_three_steps(architecture, kind, nan) for nan in (None, sick))
    are_same = same_values if architecture.checks_values else same_bits
    for slot in range(SLOTS):
        assert are_same(well[slot], ill[slot]) is (slot != sick), f"slot {slot}"


def _train_three_steps(
    architecture: Architecture, kind: ExecutorKind, nan: int | None
) -> list[list[Any]]:
    """By slot, all that came of it; slot `nan` has NaN weights from the start."""
    with double_precision(seed=2):
        models = [architecture.make() for _ in range(SLOTS)]
        fused = BundledTrials(architecture, models, kind)
        if nan is not None:
            _fill_with_nan(fused.bundle.state.slot_models[nan])
        steps = [fused.train([architecture.batch() for _ in models]) for _ in range(3)]
        return [
            [(step[slot].output, step[slot].loss) for step in steps]
            + [parameters(fused.bundle.unbind(slot)), buffers(fused.bundle.unbind(slot))]
            for slot in range(SLOTS)
        ]


def _compare_training(
    architecture: Architecture, fused: BundledTrials, alone: TrainedAlone
) -> None:
    for number, steps in enumerate(alone.steps):
        found = fused.train(batches_of(architecture, number))
        assert not fused.bundle.failures, fused.bundle.failures
        for slot, (right, ours) in enumerate(zip(steps, found, strict=True)):
            where = f"step {number}, slot {slot}"
            gap = abs(ours.loss - right.loss)
            assert gap <= TOLERANCE * abs(right.loss), f"{where}: {ours.loss} {right.loss}"
            _assert_close(ours.output, right.output, f"{where}: output")
            if number == 0:
                _assert_same_gradients(ours.gradients, right.gradients, where)


def _compare_evaluation(
    architecture: Architecture, fused: BundledTrials, alone: TrainedAlone
) -> None:
    found = fused.evaluate(batches_of(architecture, STEPS + 1))
    for slot, (right, ours) in enumerate(zip(alone.evaluated, found, strict=True)):
        _assert_close(ours, right, f"evaluation, slot {slot}: output")


def _compare_what_comes_out(
    architecture: Architecture, fused: BundledTrials, alone: TrainedAlone
) -> None:
    for slot, right in enumerate(alone.models):
        found = fused.bundle.unbind(slot)
        assert type(found) is type(right)
        for what in (parameters, buffers, plain_attributes):
            _assert_close(what(found), what(right), f"slot {slot}: {what.__name__}")
        for name, tensor in {**parameters(found), **buffers(found)}.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, f"{name} shares memory"
        fresh = architecture.make()
        fresh.load_state_dict(found.state_dict(), strict=True)
        _assert_close(parameters(fresh), parameters(right), f"slot {slot}: loaded")


def _assert_close(found: Any, right: Any, what: str) -> None:
    """Trees of the same form whose tensors are equal to rounding, and all else equal."""
    found_leaves, found_spec = pytree.tree_flatten(found)
    right_leaves, right_spec = pytree.tree_flatten(right)
    assert found_spec == right_spec, f"{what}: {found_spec} {right_spec}"
    for ours, expected in zip(found_leaves, right_leaves, strict=True):
        if isinstance(expected, Tensor | float):
            assert _is_close(ours, expected), f"{what}: {ours} {expected}"
        else:
            assert ours == expected, f"{what}: {ours} {expected}"


def _is_close(found: Any, right: Tensor | float) -> bool:
    ours, expected = torch.as_tensor(found), torch.as_tensor(right)
    if ours.shape != expected.shape or ours.dtype != expected.dtype:
        return False
    return torch.allclose(ours, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _assert_same_gradients(found: Gradients, right: Gradients, where: str) -> None:
    """Absent where absent; else equal, to rounding of the slot's largest."""
    assert found.keys() <= right.keys(), where
    largest = max(float(g.abs().max()) for g in right.values() if g is not None)
    for name, expected in right.items():
        ours = found.get(name)
        assert (ours is None) == (expected is None), f"{where}: gradient of {name} {ours}"
        if ours is not None and expected is not None:
            gap = float((ours - expected).abs().max())
            assert gap <= TOLERANCE * largest, f"{where}: gradient of {name} is off by {gap}"


@torch.no_grad()
def _fill_with_nan(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.fill_(torch.nan)


def same_bits(right: Any, ours: Any) -> bool:
    pairs = zip(pytree.tree_leaves(right), pytree.tree_leaves(ours), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def same_values(right: Any, ours: Any) -> bool:
    """Up to rounding."""
    pairs = zip(pytree.tree_leaves(right), pytree.tree_leaves(ours), strict=True)
    return all(
        torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=TOLERANCE, atol=TOLERANCE)
        for a, b in pairs
    )


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Those that no state_dict has among them."""
    return dict(model.named_buffers())


def plain_attributes(model: nn.Module) -> dict[str, Any]:
    """Numbers, texts and tensors, in lists and dicts too, that are neither parameter nor buffer."""
    kept = (int, float, str, Tensor)
    return {
        f"{path}.{name}".lstrip("."): pytree.tree_map_only(Tensor, Tensor.detach, value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        and all(isinstance(leaf, kept) for leaf in pytree.tree_leaves(value))
    }


def everything(model: nn.Module) -> dict[str, Any]:
    """Copies of all that it has, by name."""
    kept: dict[str, Any] = {**parameters(model), **buffers(model), **plain_attributes(model)}
    copied: dict[str, Any] = pytree.tree_map_only(Tensor, Tensor.clone, kept)
    return copied


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The names of what is gone or has other bits."""
    return {
        name for name in before if name not in after or not same_bits(before[name], after[name])
    }
