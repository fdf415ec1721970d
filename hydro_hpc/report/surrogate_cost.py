"""What surrogates cost against their target: time and memory of a step, alone and in bundles."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from hydro_hpc.errors import StudyError
from hydro_hpc.fusion import bind, losses
from hydro_hpc.fusion.timing import clock_ms
from hydro_hpc.study.losses import repeatable
from hydro_hpc.study.optimizers import slot_optimizer
from hydro_hpc.study.space import Params
from hydro_hpc.surrogate.narrow import Widths

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study

SHRINKS: Final = (2, 4, 8)  # S: the target's width over a surrogate's
MOST_SLOTS: Final = 16  # as many as a worker's bundle has
STEPS: Final = 5  # that are timed, after one


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one step of a trial at one width; it is None where widths are followed. `slots` is how
    many surrogates take at most the target's memory, `bundled_ms` what a step of such a bundle
    takes for each; None if it is one.
    """

    shrink: int  # 1: the target
    width: int | None
    num_parameters: int
    step_ms: float
    memory_bytes: int
    slots: int = 1
    bundled_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A width over which the model has no surrogate, or none that trains."""

    shrink: int
    reason: str


def costs(study: Study) -> list[Cost | Refused]:
    """The target's, and those of surrogates of a half, a fourth and an eighth of its width, in the
    middle of the space, on one thread. Takes seconds and more for a large target.
    """
    params = _middle(study)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return list(_costs(study, params))
    finally:
        torch.set_num_threads(threads)


def _costs(study: Study, params: Params) -> Iterator[Cost | Refused]:
    target = _alone(study.with_surrogate(by=1), params, shrink=1)
    yield target
    for shrink in SHRINKS:
        try:
            yield _against(target, study.with_surrogate(by=shrink), params, shrink)
        except StudyError as error:
            yield Refused(shrink=shrink, reason=str(error))
        except Exception as error:  # the user's code at another width
            said = next(iter(str(error).splitlines()), "") or "no reason given"
            reason = f"the model fails in a step at this width ({type(error).__name__}: {said})"
            yield Refused(shrink=shrink, reason=reason)


def _against(target: Cost, narrow: Study, params: Params, shrink: int) -> Cost:
    alone = _alone(narrow, params, shrink=shrink)
    slots = min(MOST_SLOTS, target.memory_bytes // alone.memory_bytes)
    bundled = None if slots < 2 else _bundled_ms(narrow, params, slots)
    return replace(alone, slots=max(1, slots), bundled_ms=bundled)


def _alone(study: Study, params: Params, *, shrink: int) -> Cost:
    x, y = _batch(study, params)
    model = study.build_model(params, 0)
    optimizer = study.make_optimizer(model, params)
    kept = _Kept(model)

    def step() -> None:
        kept.begin()
        optimizer.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
            loss = study.loss(model(x), y)
        loss.backward()
        optimizer.step()

    step_ms = _median_ms(step)
    state = [t for own in optimizer.state.values() for t in own.values() if isinstance(t, Tensor)]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    lasting = sum(map(_bytes, [*model.parameters(), *model.buffers(), *gradients, *state]))
    memory_bytes = lasting + kept.most_bytes
    narrowness = study.narrowness
    return Cost(
        shrink=shrink,
        width=narrowness.surrogate if isinstance(narrowness, Widths) else None,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        step_ms=step_ms,
        memory_bytes=memory_bytes,
    )


def _bundled_ms(study: Study, params: Params, slots: int) -> float:
    """A step of a bundle, for each of its trials."""
    x, y = _batch(study, params)
    models = [study.build_model(params, seed) for seed in range(slots)]
    bundle = bind(models, example=(x, y), loss=repeatable(study.loss))
    settings = [study.optimizer_settings(params)] * slots
    rules = study.rules_of(params)
    optimizer = slot_optimizer(study.optimizer_name, bundle, settings, rules)
    targets = y.expand(slots, *y.shape)

    def step() -> None:
        losses(study.loss, bundle.shared(x), targets).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _median_ms(step) / slots


class _Kept:
    """How much a step keeps for its backward beside parameters, each memory once."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._now: dict[int, int] = {}
        self.most_bytes = 0

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._now[storage.data_ptr()] = storage.nbytes()
            self.most_bytes = max(self.most_bytes, sum(self._now.values()))
        return tensor

    def begin(self) -> None:
        """Another step."""
        self._now.clear()


def _batch(study: Study, params: Params) -> tuple[Tensor, Tensor]:
    data, rows = study.data(), slice(0, study.batch_size_of(params))
    return data.train_x[rows].clone(), data.train_y[rows].clone()  # not the memory of all rows


def _median_ms(step: Callable[[], None]) -> float:
    step()
    taken = []
    for _ in range(STEPS):
        start = clock_ms()
        step()
        taken.append(clock_ms() - start)
    return statistics.median(taken)


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateCost:
    """`said` is what the study says of its surrogates, in sentences; `narrowed` what shrinks in
    them and what stays.
    """

    said: list[str]
    narrowed: list[str]
    batch_size: int
    costs: list[Cost]
    refused: list[Refused]

    def lines(self) -> list[str]:
        """For people."""
        target, *narrow = self.costs
        rows = {cost.shrink: _line(cost, target) for cost in narrow}
        rows |= {one.shrink: f"  S = {one.shrink}: none: {one.reason}" for one in self.refused}
        return [
            *self.said,
            *(["widths, in the target and in a surrogate:"] if self.narrowed else []),
            *(f"  {line}" for line in self.narrowed),
            f"a step of {self.batch_size} rows on one thread, and the memory of a trial:",
            f"  target, {_size(target)}: {_said(target)}",
            *(row for _, row in sorted(rows.items())),
        ]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measured(study: Study) -> SurrogateCost:
    """Of a study with a surrogate."""
    params = _middle(study)
    found = costs(study)
    return SurrogateCost(
        said=study.surrogate_lines(),
        narrowed=study.narrowed(params),
        batch_size=study.batch_size_of(params),
        costs=[one for one in found if isinstance(one, Cost)],
        refused=[one for one in found if isinstance(one, Refused)],
    )


def _line(cost: Cost, target: Cost) -> str:
    faster = target.step_ms / cost.step_ms
    alone = f"  S = {cost.shrink}, {_size(cost)}: {_said(cost)}, {faster:.1f}x as fast alone"
    if cost.bundled_ms is None:
        return alone
    return (
        f"{alone}; a bundle of {cost.slots}, no more memory than the target: "
        f"{cost.bundled_ms:.3g} ms a trial, {target.step_ms / cost.bundled_ms:.1f}x"
    )


def _size(cost: Cost) -> str:
    return f"{cost.num_parameters} parameters" if cost.width is None else f"width {cost.width}"


def _said(cost: Cost) -> str:
    return f"{cost.step_ms:.3g} ms, {cost.memory_bytes / 2**20:.3g} MiB"


def _middle(study: Study) -> Params:
    return {name: distribution.middle() for name, distribution in study.searched.items()}
