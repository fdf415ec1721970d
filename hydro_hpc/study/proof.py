"""What the coordinate check said of a study's surrogates, kept in its folder.

A study that runs here is checked before its first trial, since that takes seconds. In bubbles it is
not: `hydro check-surrogate` does it elsewhere. A study whose surrogates failed does not start, but
if it says that it is to: `Narrow(unproven=True)`. That they passed holds for the model as it was.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hydro_hpc.atomic_write import write_text
from hydro_hpc.errors import ShrinkError, StudyError
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.model_identity import model_identity

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.space import Params
    from hydro_hpc.surrogate.coordinates.report import CheckReport


MODEL: Final = "model"  # in a stored proof, beside what the report says
MOST_ROWS: Final = 16  # of the training data in the check's batch
MOST_TOKENS: Final = 256  # in that batch, where rows are of integers
LEAST_ROWS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`failed`: a sentence for each fault, none if the surrogates passed. `model`: what they were,
    None if that is not known.
    """

    failed: tuple[str, ...]
    model: str | None


def keep_proof(folder: StudyFolder, report: CheckReport, model: str | None) -> None:
    """From now on it is what the folder says of this model, as `model_of` says. StudyError if that
    cannot be written.
    """
    facts = {**json.loads(report.to_json()), MODEL: model}
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_text(folder.proof, json.dumps(facts, indent=1))
    except OSError as error:
        raise StudyError(
            f"{folder.path} cannot be written ({error.strerror}), so it does not keep what the "
            "check said; copy the study with its folder to where you may write"
        ) from None


def kept_proof(folder: StudyFolder) -> Proof | None:
    """None if there is none, or none that can be read: then the check is made anew."""
    try:
        facts = json.loads(folder.proof.read_text(encoding="utf-8"))
        return Proof(failed=tuple(facts["failed"]), model=facts.get(MODEL))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prove(study: Study, folder: StudyFolder) -> str:
    """Checks the surrogates if they have not passed yet, as they are now. Returns how the model
    compares with the one that was checked before, empty if it is the same or there is none.
    StudyError if the check cannot be made, and the study does not insist on them.
    """
    if study.surrogate is None:
        return ""
    proof, model = kept_proof(folder), model_of(study)
    change = "" if proof is None else _change(proof, model)
    if proof is not None and not proof.failed and not change:
        return ""
    try:
        report = check_surrogates(study)
    except ShrinkError as error:
        if study.surrogate.unproven:
            return change  # `failings` says that they are unproven
        raise StudyError(
            f"the surrogates cannot be checked: {error}; or insist on them as they are: "
            "Narrow(unproven=True)"
        ) from error
    keep_proof(folder, report, model)
    return change


def doubts(study: Study, folder: StudyFolder, file: str) -> Iterator[str]:
    """As `failings`, and a sentence if they were not checked as they are now."""
    yield from failings(study, folder, file)
    proof = kept_proof(folder)
    if study.surrogate is None or proof is None or proof.failed:
        return
    if change := _change(proof, model_of(study)):
        yield (
            f"the model {change} its surrogates were checked: hydro check-surrogate {file} checks "
            "them again, in seconds"
        )


def failings(study: Study, folder: StudyFolder, file: str) -> Iterator[str]:
    """Sentences about surrogates that were not checked, or failed and are to be used. StudyError if
    they failed, and the study does not say that.
    """
    if study.surrogate is None:
        return
    proof = kept_proof(folder)
    if proof is None:
        yield f"the surrogates are not checked yet: hydro check-surrogate {file} does, in seconds"
    elif proof.failed:
        said = (
            "by the check the surrogates do not agree with their target, so that what they find "
            f"may not be good for it: {proof.failed[0]} (hydro check-surrogate {file} says more)"
        )
        if not study.surrogate.unproven:
            raise StudyError(
                f"{said}; mend the model and check again, or insist: Narrow(unproven=True)"
            )
        yield said


def check_surrogates(study: Study) -> CheckReport:
    """In the middle of the space, with a rate that is looked for. StudyError if the study has no
    surrogate, ShrinkError if its model cannot be built at some widths.
    """
    from hydro_hpc.surrogate import check  # which a worker does not need

    if study.surrogate is None:
        raise StudyError(
            f"study {study.name} has no surrogate to check; give it one: "
            "Study(..., surrogate=Narrow(width=64))"
        )
    params = _middle(study)
    values = {**study.constants, **params}
    settings = study.optimizer_settings(params)
    settings.pop("lr", None)
    data = study.data()
    rows = rows_to_check(data.train_x)
    return check(
        _factory_of(study, values),
        keep=study.surrogate.keep,
        example=rows,
        targets=data.train_y[: len(rows)],
        loss=study.loss,
        optimizer=study.optimizer_name,
        weight_decay=settings.pop("weight_decay", 0.0),
        settings=settings,
    )


def _change(proof: Proof, model: str | None) -> str:
    """How the model compares with that of the proof: said before "its surrogates were checked".
    Empty if it is the same.
    """
    if None in (proof.model, model):
        return "is not known to be as it was when"
    return "" if proof.model == model else "has changed since"


def model_of(study: Study) -> str | None:
    """Of its surrogate, None if that cannot be told."""
    return model_identity(study, _middle(study), choose_rows=rows_to_check)


def _middle(study: Study) -> Params:
    return {name: distribution.middle() for name, distribution in study.searched.items()}


def rows_to_check(train_x: Tensor) -> Tensor:
    """The first of them, as few as say enough: each token is a sample of most of a model."""
    most = MOST_ROWS
    if not train_x.is_floating_point():
        most = max(LEAST_ROWS, min(most, MOST_TOKENS // max(1, train_x[0].numel())))
    return train_x[:most]


def _factory_of(study: Study, values: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """The study's model as a factory of its width alone, if it has one."""
    arguments = {name: values[name] for name in sorted(study.split.model)}
    return functools.partial(study.model, **arguments)
