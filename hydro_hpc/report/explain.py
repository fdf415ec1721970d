"""`hydro explain`: how the bundles of a study run, module by module, and why; and what surrogates
train and cost.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydro_hpc.errors import EXIT_DONE, StudyError

if TYPE_CHECKING:
    from hydro_hpc.report.surrogate_cost import SurrogateCost
    from hydro_hpc.study.definition import Study

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(subparsers: Subparsers) -> None:
    """Adds `explain` to the parser of `hydro`; see `devcluster.commands.add_commands`."""
    explain = subparsers.add_parser(
        "explain",
        help="how the bundles of a study run, module by module, and why; what surrogates cost",
    )
    explain.add_argument(
        "study",
        metavar="STUDY",
        type=Path,
        help="the study's file, or its folder (NAME.hydro), which is read only: surrogates are "
        "measured by the file",
    )
    explain.add_argument("--json", action="store_true", help="print JSON, for programs")
    explain.set_defaults(command=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    study, folder = _study_and_folder(arguments.study)
    surrogate = None if study is None else _surrogate(study)
    is_silent = surrogate is not None and not (folder / "choices").is_dir()
    choices = [] if is_silent else recorded_choices(folder)
    if arguments.json:
        said = {} if surrogate is None else {"surrogate": surrogate.to_json()}
        print(json.dumps({"schema": 1, "bundles": choices, **said}))
        return EXIT_DONE
    parts = [] if surrogate is None else [surrogate.lines()]
    print("\n\n".join("\n".join(part) for part in [*parts, *map(lines_of, choices)]))
    return EXIT_DONE


def _surrogate(study: Study) -> SurrogateCost | None:
    """None if the study trains its model itself."""
    if study.surrogate is None:
        return None
    from hydro_hpc.report.surrogate_cost import measured

    return measured(study)


def _study_and_folder(given: Path) -> tuple[Study | None, Path]:
    """Of a study that is given by its file, or by its folder: then without its code. Raises
    StudyError.
    """
    if given.is_dir():
        return None, given
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.study.loading import load_study

    study = load_study(given)
    return study, StudyFolder(given.absolute().parent, study.name).path


def recorded_choices(folder: Path) -> list[dict[str, Any]]:
    """What its workers have written down, the largest bundle first. Raises StudyError."""
    files = sorted((folder / "choices").glob("*.json"))
    if not files:
        raise StudyError(
            f"{folder} says nothing of bundles: no worker has built one yet; run the study first"
        )
    try:
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        return sorted(found, key=lambda choice: -int(choice["slots"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise StudyError(
            f"{folder / 'choices'} cannot be read; remove it, and bundles are chosen anew"
        ) from None


def lines_of(choice: dict[str, Any]) -> list[str]:
    """One bundle's choice for people: what runs, what else was tried, and its modules."""
    lines = [f"bundle of {choice['slots']}: {choice['executor']}, {choice['reason']}"]
    for tried in choice["candidates"]:
        verdict = tried["refusal"] or "equals separate models"
        taken = tried["step_ms"]
        timing = "" if taken is None else f", {taken:.3g} ms for a forward and backward"
        lines.append(f"  {tried['name']}: {verdict}{timing}")
    if choice["executor"] != "grouped":
        return lines
    lines.append("  module by module:")
    per_slot = choice["per_slot"]
    for part in choice["times"]:
        if part["path"] not in per_slot:
            times = f"{part['grouped_ms']:.3g} ms, one by one {part['per_slot_ms']:.3g} ms"
            lines.append(f"    {part['path']} ({part['kind']}): all slots at once, {times}")
    for what, why in per_slot.items():
        lines.append(f"    {what}: one by one, {why}")
    return lines
