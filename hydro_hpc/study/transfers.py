"""Which hyperparameters that are good for a surrogate are good for its target."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from hydro_hpc.errors import StudyError
from hydro_hpc.study.space import Distribution
from hydro_hpc.surrogate.narrow import Narrow, Narrowness
from hydro_hpc.surrogate.width import WIDTH

# Of regularizers: how much of them helps depends on the size of a model, which no rule is about.
ANYWHERE: Final = re.compile(
    "drop|stochastic_?depth|weight_?decay|label_?smooth|mix_?up|cut_?mix|cut_?out|augment|erasing"
    "|jitter|penalty|regulari[sz]"
)
WORDS: Final = frozenset({"l1", "l2", "noise", "reg", "smoothing", "wd"})
# By what gradients are compared with: how large they are depends on the width.
OF_GRADIENTS: Final = {
    "clip_norm": "cuts gradients by their size",
    "clip_value": "cuts gradients by their size",
    "eps": "is added to the size of gradients",
    "initial_accumulator_value": "is added to the size of gradients",
}
L2: Final = frozenset({"adam", "rmsprop", "adagrad"})  # take weight decay as part of the gradient


def refuse_what_does_not_transfer(
    narrow: Narrow, searched: Mapping[str, Distribution], space: Iterable[str]
) -> None:
    """StudyError if the best value on surrogates says nothing of the target's, by name."""
    if WIDTH in space:
        raise StudyError(
            f"the space has {WIDTH!r}, which the surrogate of the study sets; take it out of the "
            "space: the target's is the default of the model's argument"
        )
    for name in sorted(searched):
        if is_regularizer(name) and name not in narrow.also:
            raise StudyError(
                f"{name!r} is searched on surrogates, and its best value there is not the target's:"
                " how much a regularizer helps depends on a model's size, which the rules of "
                f"surrogates are not about; make it a constant, or insist: also=({name!r},) in "
                "Narrow"
            )
    if unknown := [name for name in narrow.also if name not in searched]:
        raise StudyError(
            f"Narrow(also=...) names {unknown[0]!r}, which the study does not search; it searches "
            f"{', '.join(sorted(searched))}"
        )


def is_regularizer(name: str) -> bool:
    """Says so by the name alone."""
    lower = name.lower()
    return ANYWHERE.search(lower) is not None or not WORDS.isdisjoint(lower.split("_"))


def cautions(
    narrow: Narrow,
    narrowness: Narrowness,
    *,
    optimizer: str,
    searched: Mapping[str, Distribution],
    constants: Mapping[str, Any],
    epochs: int,
) -> Iterator[str]:
    """A sentence for each thing that the rules do not vouch for, or that saves nothing."""
    if narrowness.is_target:
        yield (
            "these surrogates are the target itself, since they have its width: trials are right "
            "and no cheaper; narrow them by 2 or more"
        )
    if "batch_size" in searched:
        yield (
            "batch_size is searched on surrogates: which one is best depends on how long and on "
            "how much data is trained, so it transfers only to a target that is trained alike"
        )
    for name, what in OF_GRADIENTS.items():
        if name in searched or (name != "eps" and constants.get(name)):
            yield (
                f"{name} {what}, which is larger in narrow models, so the target's best is another;"
                " choose it on the target"
            )
    for name in narrow.also:
        yield f"{name} is searched on surrogates as you insist; no rule says that it transfers"
    if optimizer in L2 and "weight_decay" not in searched and constants.get("weight_decay"):
        yield (
            f"{optimizer} has weight decay as part of the gradient, which it then divides by its "
            "size, so that no factor keeps its effect over widths; adamw keeps lr x weight_decay"
        )
    yield from _horizon(narrow, searched=searched, constants=constants, epochs=epochs)


def _horizon(
    narrow: Narrow,
    *,
    searched: Mapping[str, Distribution],
    constants: Mapping[str, Any],
    epochs: int,
) -> Iterator[str]:
    """How the target is trained otherwise: the best learning rate and schedule go by that too."""
    size = None if "batch_size" in searched else constants["batch_size"]
    differing = []
    if narrow.target_epochs not in (None, epochs):
        differing.append(f"{_epochs(epochs)} and the target for {narrow.target_epochs}")
    if narrow.target_batch_size is not None and narrow.target_batch_size != size:
        own = "searched batches" if size is None else f"batches of {size}"
        differing.append(f"{own} and the target with {narrow.target_batch_size}")
    if differing:
        yield (
            f"surrogates train for another horizon, {', and '.join(differing)}: the best learning "
            "rate mostly falls with the number of steps and changes with the batch size, and the "
            "rules are about the width alone"
        )


def statement(
    narrow: Narrow,
    narrowness: Narrowness,
    *,
    epochs: int,
    batch_size: int | None,
    num_rows: int | None,
) -> str:
    """What is trained in place of what, for how long, in one line."""
    own = _training(epochs, batch_size, num_rows)
    target = _training(
        narrow.target_epochs or epochs, narrow.target_batch_size or batch_size, num_rows
    )
    said = "the same" if own == target else target
    return f"trials train surrogates of {narrowness} for {own}; the target's horizon is {said}"


def _training(epochs: int, batch_size: int | None, num_rows: int | None) -> str:
    if batch_size is None:
        return _epochs(epochs)
    steps = "" if num_rows is None else f" ({epochs * (num_rows // batch_size)} steps)"
    return f"{_epochs(epochs)} in batches of {batch_size}{steps}"


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
