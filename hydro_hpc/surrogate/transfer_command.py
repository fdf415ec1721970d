"""`hydro transfer`: the target's settings, from the best that a study has found."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydro_hpc.errors import EXIT_DONE, StudyError

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.study.space import Params
    from hydro_hpc.surrogate.transfer.settings import TargetSettings
    from hydro_hpc.surrogate.transfer.verifying import Progress

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

LOOK_S: Final = 5.0  # at a study that another process runs, perhaps on another node
EXIT_INTERRUPTED: Final = 130  # as shells say it of SIGINT


def add_commands(subparsers: Subparsers) -> None:
    """Adds `transfer` to the parser of `hydro`; see `devcluster.commands.add_commands`."""
    transfer = subparsers.add_parser(
        "transfer", help="the target's settings from a study's best trial: PyTorch, DeepSpeed"
    )
    transfer.add_argument("study", metavar="STUDY", type=Path, help="the study's file")
    transfer.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write; default: NAME.hydro/transfer"
    )
    transfer.add_argument(
        "--verify",
        type=_count,
        metavar="K",
        help="train the K best on the target first, here; begins when half of the trials are done",
    )
    transfer.add_argument("--json", action="store_true", help="print JSON, for programs")
    transfer.set_defaults(command=_transfer)


def _transfer(arguments: argparse.Namespace) -> int:
    from hydro_hpc.study.edges import at_edges
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.study.loading import load_study
    from hydro_hpc.study.proof import doubts
    from hydro_hpc.surrogate.transfer.settings import as_json, left_out, require_place
    from hydro_hpc.surrogate.transfer.status_lines import StatusLines

    if arguments.study.is_dir():
        raise StudyError(
            f"{arguments.study} is a folder; give the study's file, which says how the target "
            "is built"
        )
    study = load_study(arguments.study)
    folder = StudyFolder(arguments.study.absolute().parent, study.name)
    folder.check_identity(study.description)  # what is in `out` is told from that
    out: Path = arguments.out or folder.transfer
    require_place(study.name, study.description.identity, out)
    settings: TargetSettings | None = None
    chosen_of: dict[int, Params] = {}  # by trial
    said = StatusLines(study, count=arguments.verify)
    try:
        for progress in _progress(study, folder, arguments.verify):
            line = said.line(progress, now_s=time.monotonic())
            if line and not arguments.json:
                print(line, flush=True)
            settings = _write_if_new(study, progress, settings, out)
            chosen_of = {each.number: each.params for each in progress.standing.candidates}
    except KeyboardInterrupt:
        kept = "nothing is written yet" if settings is None else f"{out} has the best so far"
        print(
            f"hydro: interrupted; what the target has reached at the end of each epoch is in "
            f"{folder.targets}, the same command goes on from there, and {kept}",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    if settings is None:
        raise StudyError(
            f"study {study.name}: every trial that completed has failed on the target, so there is "
            f"nothing to transfer; {folder.targets} says why"
        )
    if arguments.json:
        print(as_json(settings), end="")
        return EXIT_DONE
    for sentence in [
        *study.cautions,
        *doubts(study, folder, arguments.study),
        *at_edges(settings.trial, chosen_of[settings.trial], chosen_of.values(), study.searched),
        *left_out(settings),
    ]:
        print(sentence)
    print(f"written to {out}: settings.json, settings.py, deepspeed.json")
    return EXIT_DONE


def _progress(study: Study, folder: StudyFolder, count: int | None) -> Iterator[Progress]:
    """How the study stands; of a study to be verified, until that is done. StudyError if its model
    is another than when its trials ran.
    """
    from hydro_hpc.surrogate.transfer.standing import read_standing, require_candidate
    from hydro_hpc.surrogate.transfer.verifying import Progress, records_of, verify

    if count is not None:
        yield from verify(study, folder, count=count, wait=lambda: time.sleep(LOOK_S))
    standing = read_standing(folder, study.description)
    require_candidate(study.name, standing)
    study.keep_rules(folder.rules)
    study.rules_of(standing.candidates[0].params)
    yield Progress(standing=standing, records=records_of(study, standing, folder.targets))


def _write_if_new(
    study: Study, progress: Progress, before: TargetSettings | None, out: Path
) -> TargetSettings | None:
    """Writes the settings if they are others than before, and returns them. Of candidates that have
    all failed on the target nothing is left there.
    """
    from hydro_hpc.surrogate.transfer.settings import remove_settings, settings_of, write_settings
    from hydro_hpc.surrogate.transfer.verifying import chosen

    found = chosen(progress.standing, progress.records, study.direction)
    if found is None:
        remove_settings(study.name, study.description.identity, out)
        return None
    settings = settings_of(study, *found)
    if settings != before:
        write_settings(settings, out)
    return settings


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give 1 or more")
    return int(text)
