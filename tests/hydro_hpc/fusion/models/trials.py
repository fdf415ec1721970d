"""The trials of one architecture, as their owner trains them and as one bundle does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind, choice, losses, trial_stream
from hydro_hpc.fusion.choices import ChoiceFolder, key_of
from hydro_hpc.fusion.report import BundleReport
from hydro_hpc.fusion.rows import split_slots
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.state import view_columns
from tests.hydro_hpc.fusion.models.architecture import BATCH, Architecture, Batch

SLOTS: Final = 3
SEEDS: Final = (101, 7, 33)
LR: Final = (0.05, 0.02, 0.01)
MOMENTUM: Final = (0.0, 0.9, 0.5)  # not Adam: it would hide a gradient of the wrong size

Gradients = dict[str, Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one slot's trial gave in one step; gradients of the first alone, to save time."""

    output: Any
    loss: float
    gradients: Gradients


@contextmanager
def double_precision(seed: int) -> Iterator[None]:
    """Inside, new tensors are float64, and torch's global stream starts at `seed`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def taken_at_its_word() -> Iterator[None]:
    """Inside, binding takes the executor that is asked for unverified, so that a wrong one runs."""

    def all_may(workshop: Any, ways: Sequence[choice.Way], **_: Any) -> list[Any]:
        workshop.uses_python = True  # what verification would have found out
        return [(way, None) for way in ways]

    with mock.patch.object(choice, "refusals_of", all_may):
        yield


class OrdinaryTrial:
    """An untouched model, torch's optimizer, and the trial's own random stream around forward."""

    def __init__(self, architecture: Architecture, model: nn.Module, slot: int) -> None:
        self.architecture, self.model, self.seed = architecture, model, SEEDS[slot]
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=LR[slot] * architecture.rate,
            momentum=MOMENTUM[slot],
            weight_decay=architecture.decay * slot,
        )
        self.steps = 0

    def train(self, batch: Batch) -> Step:
        self.optimizer.zero_grad()
        own = _own(batch)
        output = self.forward(own)
        loss = self.architecture.loss(output, own.targets)
        loss.backward()
        named = [] if self.steps else self.model.named_parameters()
        gradients = {name: _copied(parameter.grad) for name, parameter in named}
        self.optimizer.step()
        self.steps += 1
        return Step(output=_detached(output), loss=loss.item(), gradients=gradients)

    def forward(self, batch: Batch) -> Any:
        with trial_stream(self.seed, self.steps, training=self.model.training):
            return self.model(*batch.args, **batch.kwargs)

    def evaluate(self, batch: Batch) -> Any:
        self.model.eval()
        with torch.no_grad():
            return _detached(self.forward(_own(batch)))


class BundledTrials:
    """The same trials as one bundle."""

    def __init__(
        self,
        architecture: Architecture,
        models: Sequence[nn.Module],
        kind: ExecutorKind,
        *,
        channels_last: bool = False,
    ) -> None:
        self.architecture = architecture
        with taken_at_its_word():
            if channels_last:
                self.bundle = with_channels_last(architecture, models, kind)
            else:
                self.bundle = bound(architecture, models, kind)
        assert self.bundle.report.executor is kind, self.bundle.report
        self.steps = 0
        self.optimizer = optim.SGD(
            self.bundle,
            lr=[lr * architecture.rate for lr in LR],
            momentum=MOMENTUM,
            weight_decay=[architecture.decay * slot for slot in range(SLOTS)],
        )

    def train(self, batches: Sequence[Batch]) -> list[Step]:
        self.optimizer.zero_grad()
        outputs, targets = self.forward(batches)
        values = losses(self.architecture.loss, outputs, targets, failed=self.bundle.fail)
        values.sum().backward()
        gradients = [{}] * SLOTS if self.steps else gradients_of(self.bundle)
        self.optimizer.step()
        self.steps += 1
        rows = zip(split_slots(_detached(outputs), SLOTS), values.tolist(), gradients, strict=True)
        return [Step(output=o, loss=v, gradients=g) for o, v, g in rows]

    def forward(self, batches: Sequence[Batch]) -> tuple[Any, Any]:
        args, kwargs, targets = stacked(batches)
        return self.bundle(*args, **kwargs), targets

    def evaluate(self, batches: Sequence[Batch]) -> list[Any]:
        self.bundle.eval()
        with torch.no_grad():
            return split_slots(_detached(self.forward(batches)[0]), SLOTS)


def bound(
    architecture: Architecture, models: Sequence[nn.Module], kind: ExecutorKind | None
) -> Bundle:
    """These models bound on one batch; which executor came of it is in the report."""
    bundle = bind(models, seeds=list(SEEDS), executor=kind)
    bundle.choose_executor(example(architecture))
    return bundle


def with_channels_last(
    architecture: Architecture, models: Sequence[nn.Module], kind: ExecutorKind
) -> Bundle:
    """The same with images laid out so, as a choice that was written down."""
    sample = example(architecture)
    report = BundleReport(slots=SLOTS, executor=kind, reason="test", channels_last=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ChoiceFolder(folder).put(key_of(models, sample), report)
        bundle = bind(models, seeds=list(SEEDS), choices=[folder])
        bundle.choose_executor(sample)
    assert bundle.report.channels_last, bundle.report
    return bundle


def example(architecture: Architecture) -> Sample:
    """What `bind` would make of one batch."""
    batch = architecture.batch()
    if batch.kwargs:
        args, kwargs, _ = stacked([batch] * SLOTS)
        return Sample(args=args, kwargs=kwargs)
    if batch.targets is None:
        return Sample.of_one_model(batch.args, None, SLOTS)
    return Sample.of_one_model((*batch.args, batch.targets), architecture.loss, SLOTS)


def shortened(batch: Batch) -> Batch:
    """The first two examples, as a last batch may be; as it is where it has other axes."""
    trees = (batch.args, dict(batch.kwargs), batch.targets)
    tensors = [x for x in pytree.tree_leaves(trees) if isinstance(x, Tensor)]
    if any(x.ndim == 0 or x.size(0) != BATCH for x in tensors):
        return batch
    args, kwargs, targets = pytree.tree_map_only(Tensor, lambda x: x[:2], trees)
    return Batch(args=args, kwargs=kwargs, targets=targets)


def stacked(batches: Sequence[Batch]) -> tuple[Any, Any, Any]:
    """(args, kwargs, targets), trees of tensors [slots, ...]."""
    trees = [(batch.args, dict(batch.kwargs), batch.targets) for batch in batches]
    columns, spec = zip(*(pytree.tree_flatten(tree) for tree in trees), strict=True)
    leaves = [
        torch.stack(column) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*columns, strict=True)
    ]
    args, kwargs, targets = pytree.tree_unflatten(leaves, spec[0])
    return args, kwargs, targets


def gradients_of(bundle: Bundle) -> list[Gradients]:
    """Each slot's gradients by parameter, None where absent; frozen ones may be left out."""
    rows: list[Gradients] = [{} for _ in range(SLOTS)]
    for block, found in zip(bundle.state.blocks, bundle.gradients(), strict=True):
        for number, column in enumerate(block.columns):
            values = view_columns(found.values.detach().clone(), column)
            for slot, row in enumerate(rows):
                present = found.present
                is_there = present is None or bool(present.expand(SLOTS, -1)[slot, number])
                row[column.name] = values[slot] if is_there else None
    return rows


def _own(batch: Batch) -> Batch:
    """The same values in memory that the model may write into."""
    args, kwargs, targets = pytree.tree_map_only(
        Tensor, Tensor.clone, (batch.args, dict(batch.kwargs), batch.targets)
    )
    return Batch(args=args, kwargs=kwargs, targets=targets)


def _copied(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().to_dense().clone()


def _detached(tree: Any) -> Any:
    """A copy; a record becomes a dict of its fields, which can be compared."""
    if is_dataclass(tree) and not isinstance(tree, type):
        tree = {field.name: getattr(tree, field.name) for field in fields(tree)}
    return pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), tree)
