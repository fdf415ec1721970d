"""`hydro transfer`: the target's settings, from the best that a study has found."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydro_hpc.errors import EXIT_DONE, StudyError

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.surrogate.transfer.settings import TargetSettings
    from hydro_hpc.surrogate.transfer.verifying import Progress

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

LOOK_S: Final = 1.0  # at a study that another process runs, perhaps on another node


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
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.study.loading import load_study
    from hydro_hpc.surrogate.transfer.settings import as_json, left_out

    if arguments.study.is_dir():
        raise StudyError(
            f"{arguments.study} is a folder; give the study's file, which says how the target "
            "is built"
        )
    study = load_study(arguments.study)
    folder = StudyFolder(arguments.study.absolute().parent, study.name)
    out: Path = arguments.out or folder.transfer
    settings: TargetSettings | None = None
    for progress in _progress(study, folder, arguments.verify):
        if not arguments.json:
            print(_line(study, progress), flush=True)
        settings = _write_if_new(study, progress, settings, out)
    assert settings is not None  # without a candidate, StudyError was raised
    if arguments.json:
        print(as_json(settings), end="")
        return EXIT_DONE
    for sentence in left_out(settings):
        print(sentence)
    print(f"written to {out}: settings.json, settings.py, deepspeed.json")
    return EXIT_DONE


def _progress(study: Study, folder: StudyFolder, count: int | None) -> Iterator[Progress]:
    """How the study stands; of a study to be verified, until that is done."""
    from hydro_hpc.surrogate.transfer.records import known_records
    from hydro_hpc.surrogate.transfer.standing import read_standing, require_candidate
    from hydro_hpc.surrogate.transfer.verifying import Progress, verify

    if count is not None:
        yield from verify(study, folder, count=count, wait=lambda: time.sleep(LOOK_S))
    standing = read_standing(folder, study.description)
    require_candidate(study.name, standing)
    yield Progress(standing=standing, records=known_records(folder.targets), record=None)


def _write_if_new(
    study: Study, progress: Progress, before: TargetSettings | None, out: Path
) -> TargetSettings | None:
    """Writes the settings if they are others than before, and returns them."""
    from hydro_hpc.surrogate.transfer.settings import settings_of, write_settings
    from hydro_hpc.surrogate.transfer.verifying import chosen

    found = chosen(progress.standing, progress.records, study.direction)
    if found is None:
        return before
    settings = settings_of(study, *found)
    if settings != before:
        write_settings(settings, out)
    return settings


def _line(study: Study, progress: Progress) -> str:
    """What is new, for people."""
    standing, record = progress.standing, progress.record
    if record is not None:
        where = f"target, trial {record.number}"
        if record.state == "failed":
            return f"{where}: failed: {record.reason}"
        epochs = f"epoch {len(record.values)}"
        return f"{where}, {epochs}: {record.values[-1]:.6g}"
    counts = f"study {study.name}: {standing.ended} of {standing.planned} trials have ended"
    if not standing.candidates:
        return counts
    best = standing.candidates[0]
    return f"{counts}; best is trial {best.number}: {best.value:.6g} {best.params}"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give 1 or more")
    return int(text)
