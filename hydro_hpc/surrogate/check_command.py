"""`hydro check-surrogate`: do the surrogates of a study agree with their target?"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, StudyError

if TYPE_CHECKING:
    from torch import nn

    from hydro_hpc.study.definition import Study
    from hydro_hpc.surrogate.coordinates.report import CheckReport

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

MOST_ROWS: Final = 16  # of the training data in the check's batch


def add_commands(subparsers: Subparsers) -> None:
    """Adds `check-surrogate` to the parser of `hydro`; see `devcluster.commands.add_commands`."""
    command = subparsers.add_parser(
        "check-surrogate",
        help="train a study's surrogates of some widths for a few steps, and compare their layers; "
        "the study's folder keeps what came out",
    )
    command.add_argument("study", metavar="STUDY", type=Path, help="the study's file")
    command.add_argument("--plot", metavar="FILE", type=Path, help="draw the result, as PNG")
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(command=_check)


def _check(arguments: argparse.Namespace) -> int:
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.study.loading import load_study
    from hydro_hpc.study.proof import keep_proof

    study = load_study(arguments.study)
    report = check_study(study)
    keep_proof(StudyFolder(arguments.study.absolute().parent, study.name), report)
    print(report.to_json() if arguments.json else report)
    if arguments.plot:
        from hydro_hpc.surrogate.coordinates.picture import write_picture

        write_picture(report, arguments.plot)
    return EXIT_DONE if report.passed else EXIT_FAILED


def check_study(study: Study) -> CheckReport:
    """In the middle of the space, with a rate that is looked for. StudyError if the study has no
    surrogate, ShrinkError if its model cannot be built at some widths.
    """
    from hydro_hpc.surrogate.coordinates.checking import check

    if getattr(study, "surrogate", None) is None:
        raise StudyError(
            f"study {study.name} has no surrogate to check; give it one: "
            "Study(..., surrogate=Narrow(width=64))"
        )
    params = {name: distribution.middle() for name, distribution in study.searched.items()}
    values = {**study.constants, **params}
    settings = study.optimizer_settings(params)
    settings.pop("lr", None)
    data = study.data()
    rows = min(MOST_ROWS, len(data.train_x))
    return check(
        _factory_of(study, values),
        example=data.train_x[:rows],
        targets=data.train_y[:rows],
        loss=study.loss,
        optimizer=study.optimizer_name,
        weight_decay=settings.pop("weight_decay", 0.0),
        settings=settings,
    )


def _factory_of(study: Study, values: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """The study's model as a factory of `width=` alone; the target's width is the default's."""
    arguments = {name: values[name] for name in sorted(study.split.model) if name != "width"}
    declared = inspect.signature(study.model).parameters.get("width")
    target = values.get("width", declared.default if declared else None)
    if not isinstance(target, int):
        raise StudyError(
            f"the model of study {study.name} has no argument width= with the target's width as "
            "its default; write def model(width=512)"
        )

    def factory(width: int = target) -> nn.Module:
        return study.model(**arguments, width=width)

    return factory
