"""`hydro check-surrogate`: do the surrogates of a study agree with their target?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, StudyError

if TYPE_CHECKING:
    from hydro_hpc.surrogate.coordinates.report import CheckReport

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(subparsers: Subparsers) -> None:
    """Adds `check-surrogate` to the parser of `hydro`; see `devcluster.commands.add_commands`."""
    command = subparsers.add_parser(
        "check-surrogate",
        help="train a study's surrogates of some widths for a few steps, and compare their layers; "
        "the study's folder keeps what came out",
    )
    command.add_argument("study", metavar="STUDY", type=Path, help="the study's file")
    command.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the result: .png, .svg, .pdf"
    )
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(command=_check)


def _check(arguments: argparse.Namespace) -> int:
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.study.loading import load_study
    from hydro_hpc.study.proof import check_surrogates, keep_proof, model_of

    if arguments.plot:
        _check_name(arguments.plot)
    study = load_study(arguments.study)
    folder = StudyFolder(arguments.study.absolute().parent, study.name)
    folder.check_identity(study.description)
    report = check_surrogates(study)
    print(report.to_json() if arguments.json else report, flush=True)
    try:
        if arguments.plot:
            _draw(report, arguments.plot)
    finally:
        keep_proof(folder, report, model_of(study))
    return EXIT_DONE if report.passed else EXIT_FAILED


def _check_name(picture: Path) -> None:
    from hydro_hpc.surrogate.coordinates.picture import image_format

    image_format(picture)


def _draw(report: CheckReport, path: Path) -> None:
    from hydro_hpc.surrogate.coordinates.picture import write_picture

    try:
        write_picture(report, path)
    except OSError as error:
        raise StudyError(
            f"{path} cannot be written ({error.strerror}); give another file with --plot"
        ) from None
