"""Binds models written for one trial each into a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import signature
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.choice import Way, Wish
from hydro_hpc.fusion.choices import ChoiceFolder, users_cache
from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.sample import LossFunction, Sample
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.to_train import to_train


def bind(
    models: Sequence[nn.Module],
    example: Any = None,
    loss: LossFunction | None = None,
    seeds: Sequence[int] | None = None,
    *,
    executor: ExecutorKind | None = None,
    choices: Sequence[Path] | None = None,
    compiles: bool = False,
) -> Bundle:
    """A bundle of these models, which are copied and not changed.

    `example` is ONE model's input [batch, ...]; with `loss(outputs, targets)`, also for one model,
    it is the pair (input, targets). On it each executor is compared with untouched copies, the
    exact ones are timed, and the fastest is kept; `bundle.report` says which and why. Without an
    example that happens at the first call. `seeds` has one number per trial for its random stream
    (the slot's number if None). `executor` is one to take if it is exact.

    `choices` are folders: a choice that one of them holds, for such models and inputs on such a
    device, is verified and taken instead of timing all again, and a new one is written to each. By
    default that is a cache in the user's home.

    With `compiles`, a grouped forward is given to `torch.compile` too, and kept so if it is exact
    and faster: worth a minute or more where thousands of steps follow. It has no places inside
    where it may pause.

    FusionError if the models differ in class, shape, dtype or device, or have nothing to train.
    """
    models = list(models)
    signature.check(models)
    seeds = list(range(len(models))) if seeds is None else list(seeds)
    if len(seeds) != len(models):
        raise FusionError(f"{len(seeds)} seeds were given for {len(models)} models")
    copies = [own_copy(model, f"model of trial {trial}") for trial, model in enumerate(models)]
    folders = [users_cache()] if choices is None else choices
    known = [ChoiceFolder(folder) for folder in folders] if executor is None else []
    with to_train():
        wish = Wish(way=None if executor is None else Way(kind=executor), compiles=compiles)
        bundle = Bundle(StackedState(copies), seeds, wish, choices=known)
    if example is not None:
        bundle.choose_executor(Sample.of_one_model(example, loss, len(models)))
    return bundle
