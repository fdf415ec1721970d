"""What verification says to every model of the zoo: which executors may run it, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from hydro_hpc.fusion import ExecutorKind, choice, layout
from hydro_hpc.fusion.inputs import InputForm
from tests.hydro_hpc.fusion.models.architecture import Architecture
from tests.hydro_hpc.fusion.models.exactness import changed, everything
from tests.hydro_hpc.fusion.models.registry import ARCHITECTURES
from tests.hydro_hpc.fusion.models.trials import SEEDS, SLOTS, double_precision, example

LAID_OUT: Final = (ExecutorKind.GROUPED, ExecutorKind.LOOP)  # for which images can be
BOUND: Final = tuple(name for name, one in ARCHITECTURES.items() if one.refused is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One executor and one model: `refusal` is why it may not run it, None if it may."""

    name: str
    executor: ExecutorKind
    refusal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What binding a model's trials said, and the attributes of the user's models it changed."""

    refusals: Mapping[ExecutorKind, str | None]
    with_channels_last: Mapping[ExecutorKind, str | None]
    changed: tuple[str, ...]


@cache
def verdict(name: str) -> Verdict:
    """By verifying each executor once."""
    with double_precision(seed=1):
        models = [ARCHITECTURES[name].make() for _ in range(SLOTS)]
        before = [everything(model) for model in models]
        workshop = choice.Workshop(models, SEEDS, example(ARCHITECTURES[name]))
        tried = choice.refusals_of(workshop, [choice.Way(kind=kind) for kind in ExecutorKind])
        images_last = [choice.Way(kind=kind, channels_last=True) for kind in LAID_OUT]
        tried_last = (
            choice.refusals_of(workshop, images_last) if has_images(ARCHITECTURES[name]) else []
        )
        after = [everything(model) for model in models]
    different = [changed(a, b) for a, b in zip(before, after, strict=True)]
    refusals = {way.kind: refusal for way, refusal in tried}
    return Verdict(
        refusals=refusals,
        with_channels_last={way.kind: refusal for way, refusal in tried_last},
        changed=tuple(sorted(set().union(*different))),
    )


def has_images(architecture: Architecture) -> bool:
    with double_precision(seed=1):
        sample = example(architecture)
    return layout.has_images(InputForm.of(sample.args, sample.kwargs).tensors)


def survey(names: Iterable[str] = BOUND) -> list[Finding]:
    """Every executor's verdict on every model that can be bound at all."""
    return [
        Finding(name=name, executor=kind, refusal=refusal)
        for name in names
        for kind, refusal in verdict(name).refusals.items()
    ]


def table(findings: Iterable[Finding]) -> str:
    """One line per finding."""
    return "\n".join(
        f"{one.name:30} {one.executor.value:8} {one.refusal or 'equals separate models'}"
        for one in findings
    )


if __name__ == "__main__":
    print(table(survey()))
