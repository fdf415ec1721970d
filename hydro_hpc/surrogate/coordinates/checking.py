"""`check`: trains a few narrow surrogates for a few steps, and compares their layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydro_hpc.errors import ShrinkError
from hydro_hpc.nn.randomness import trial_stream
from hydro_hpc.surrogate.arguments import refuse_keep
from hydro_hpc.surrogate.building import Factory, has_width, target_width
from hydro_hpc.surrogate.coordinates.ladders import BuiltLadder, FollowedLadder
from hydro_hpc.surrogate.coordinates.rate import find_rate
from hydro_hpc.surrogate.coordinates.recipe import Batch, Ladder, Recipe
from hydro_hpc.surrogate.coordinates.records import roles_of
from hydro_hpc.surrogate.coordinates.report import CheckReport
from hydro_hpc.surrogate.coordinates.slopes import curves_of
from hydro_hpc.surrogate.coordinates.training import record
from hydro_hpc.surrogate.coordinates.verdict import judge
from hydro_hpc.surrogate.coordinates.watching import first_tensor
from hydro_hpc.surrogate.coordinates.widths import find_widths
from hydro_hpc.surrogate.layouts import Uses
from hydro_hpc.surrogate.structure import Finding, findings
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.table import family_of

NUM_STEPS: Final = 3
NUM_SEEDS: Final = 3

LossOfOutputs = Callable[[Any, Any], Tensor]


def check(
    model: nn.Module | Factory,
    *,
    example: Any,
    targets: Tensor | None = None,
    loss: LossOfOutputs | None = None,
    optimizer: str = "adam",
    lr: float | None = None,
    weight_decay: float = 0.0,
    settings: Mapping[str, Any] | None = None,
    widths: Sequence[int] | None = None,
    keep: Collection[str] = (),
    uses: Uses | None = None,
    seeds: int = NUM_SEEDS,
    first_seed: int = 0,
    steps: int = NUM_STEPS,
) -> CheckReport:
    """Says of each layer of the model's surrogates whether it behaves alike at every width, and
    whether each parameter is set up as the table says. `model`, `keep` and `uses` are as for
    `shrink`, or `model` makes the target: then each surrogate is of draws of its own.

    `example` is a small batch: a tensor, or a tuple of a model's arguments. `targets` and `loss`
    are as in training: integers are classes unless a loss is given, without targets they are
    random. `lr` is the target's, None: as large as the narrowest surrogate bears. `settings` are
    further arguments of torch's optimizer. Without `widths`, some around the target's.

    ShrinkError if the surrogates cannot be built or compared.
    """
    notes = []
    ladder: BuiltLadder | FollowedLadder
    if isinstance(model, nn.Module) or not has_width(model):
        if widths is not None:
            raise ShrinkError("widths= are of a function that has width=; a model has its own")
        make = (lambda: model) if isinstance(model, nn.Module) else model
        with trial_stream(first_seed, 0):
            ladder = FollowedLadder(make, example, keep, uses)
        widths = ladder.widths
    else:
        refuse_keep(keep)
        ladder = BuiltLadder(model, example, uses)
        if widths is None:
            found = find_widths(ladder, target_width(model))
            widths = found.accepted
            refused = found.refused.items()
            notes += [f"the factory refuses width {w}: {said}" for w, said in refused]
    recipe = Recipe(
        optimizer=optimizer,
        lr=lr or 0.0,
        weight_decay=weight_decay,
        settings=settings or {},
        steps=steps,
    )
    report = check_ladder(
        ladder,
        widths=widths,
        batch=make_batch(example, targets, loss),
        recipe=recipe,
        seeds=range(first_seed, first_seed + seeds),
        notes=notes,
    )
    with trial_stream(first_seed, 0):
        structure = structure_of(model, ladder(report.widths[0]), recipe)
    of_shrinking = ladder.warnings[report.widths[0]]  # what narrows most says most
    return replace(report, structure=structure, notes=(*report.notes, *of_shrinking))


def structure_of(
    model: nn.Module | Factory, surrogate: Surrogate, recipe: Recipe
) -> tuple[Finding, ...]:
    """What needs no training: a surrogate's factors against the table."""
    target = model if isinstance(model, nn.Module) else model()
    settings = {"lr": recipe.lr or 1.0, "weight_decay": recipe.weight_decay}
    groups = surrogate.param_groups(recipe.optimizer, **settings)
    return findings(target, surrogate, recipe.optimizer, groups, **settings)


def check_ladder(
    ladder: Ladder,
    *,
    widths: Sequence[int],
    batch: Batch,
    recipe: Recipe,
    seeds: Sequence[int] = range(NUM_SEEDS),
    notes: Sequence[str] = (),
) -> CheckReport:
    """The same for surrogates of any making; a rate of 0 in `recipe` is looked for."""
    ordered = sorted({*widths})
    if len(ordered) < 2 or not seeds:
        raise ShrinkError(f"widths={[*widths]} cannot be compared: give two widths or more")
    if not recipe.lr:
        recipe = replace(recipe, lr=find_rate(ladder, ordered[0], seeds[0], batch, recipe))
    family = family_of(recipe.optimizer)
    runs = [(w, record(ladder, w, seed, batch, recipe)) for w in ordered for seed in seeds]
    forms = {width: run.forms for width, run in runs}
    roles = roles_of(forms[ordered[0]], forms[ordered[-1]])
    curves = curves_of(record for _, run in runs for record in run.records)
    return CheckReport(
        layers=judge(
            curves, roles, family, unseen={name for _, run in runs for name in run.unseen}
        ),
        optimizer=recipe.optimizer,
        lr=recipe.lr,
        widths=tuple(ordered),
        seeds=tuple(seeds),
        steps=recipe.steps,
        notes=(*notes, *_unseen(recipe, ordered)),
        curves=tuple(curves),
    )


def make_batch(
    example: Any, targets: Tensor | None = None, loss: LossOfOutputs | None = None
) -> Batch:
    """See `check`."""
    args = example if isinstance(example, tuple) else (example,)
    if targets is None:
        return Batch(call=(args, {}), loss=_distance_to_noise)
    _refuse_no_function(loss)
    of_outputs = loss or _loss_for(targets)
    return Batch(call=(args, {}), loss=lambda outputs: _fitting(of_outputs, outputs, targets))


def _refuse_no_function(loss: object) -> None:
    if loss is not None and not callable(loss):
        kind = type(loss).__name__
        raise ShrinkError(f"loss= is of type {kind}: give a function of outputs and targets")


def _loss_for(targets: Any) -> LossOfOutputs:
    if not isinstance(targets, Tensor):
        kind = type(targets).__name__
        raise ShrinkError(f"targets= is of type {kind}: give a tensor, or a loss= that takes it")
    if targets.is_floating_point():
        return _mean_square
    return lambda outputs, classes: functional.cross_entropy(
        outputs.flatten(0, -2), classes.flatten()
    )


def _mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs are {[*outputs.shape]}, targets {[*targets.shape]}")
    return functional.mse_loss(outputs, targets)


def _fitting(loss: LossOfOutputs, outputs: Any, targets: Any) -> Tensor:
    """The loss. ShrinkError if the targets are not of these outputs, or it is no number."""
    try:
        found = loss(outputs, targets)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        said = str(error).strip().partition("\n")[0].rstrip(".") or "no reason given"
        raise ShrinkError(
            f"targets= do not fit what the model returns, as the loss fails on them "
            f"({type(error).__name__}: {said}); give the targets of example=, or the loss= that "
            "takes them"
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise ShrinkError(
            "loss= gives no single number of the outputs and targets: let it return their mean loss"
        )
    return found


def _distance_to_noise(outputs: Any) -> Tensor:
    found = first_tensor(outputs)
    if found is None:
        raise ShrinkError(
            "the model returns no tensor of floating numbers; give targets= and loss="
        )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(found.shape, generator=generator).to(found)
    return functional.mse_loss(found, noise)


def _unseen(recipe: Recipe, widths: Sequence[int]) -> list[str]:
    notes = []
    if recipe.weight_decay and recipe.optimizer.lower() == "adam":
        notes.append(
            "weight decay of Adam is part of the gradient, and whether it is right at every width "
            "does not show in a few steps; AdamW's does not depend on it"
        )
    if len(widths) < 3:
        notes.append("two widths show no more than one ratio; give three or more")
    return notes
