"""What the coordinate check said of a study's surrogates, kept in its folder.

A study whose surrogates failed does not start; one that runs here is checked before its first
trial, since that takes seconds. In bubbles it is not: `hydro check-surrogate` does it elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydro_hpc.errors import ShrinkError, StudyError
from hydro_hpc.study.folder import StudyFolder

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.surrogate.coordinates.report import CheckReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`failed`: a sentence for each fault, none if the surrogates passed."""

    failed: tuple[str, ...]


def keep_proof(folder: StudyFolder, report: CheckReport) -> None:
    """From now on it is what the folder says."""
    folder.path.mkdir(parents=True, exist_ok=True)
    temporary = folder.proof.with_suffix(".new")
    temporary.write_text(report.to_json(), encoding="utf-8")
    temporary.replace(folder.proof)


def kept_proof(folder: StudyFolder) -> Proof | None:
    """None if there is none, or none that can be read: then the check is made anew."""
    try:
        return Proof(failed=tuple(json.loads(folder.proof.read_text(encoding="utf-8"))["failed"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def require_proof(study: Study, folder: StudyFolder) -> None:
    """Checks the surrogates if that is not done yet. StudyError if they fail."""
    if study.surrogate is None:
        return
    if kept_proof(folder) is None:
        from hydro_hpc.surrogate.check_command import check_study

        try:
            keep_proof(folder, check_study(study))
        except ShrinkError as error:
            raise StudyError(f"the surrogates cannot be checked: {error}") from error
    refuse_failed(study, folder)


def refuse_failed(study: Study, folder: StudyFolder) -> None:
    """StudyError, with the first fault, if the surrogates were checked and failed."""
    proof = kept_proof(folder)
    if study.surrogate is not None and proof is not None and proof.failed:
        raise StudyError(
            f"the surrogates of study {study.name} do not agree with their target: "
            f"{proof.failed[0]}; mend that, or remove {folder.proof} to go on all the same"
        )


def unproved(study: Study, folder: StudyFolder, file: Path) -> Iterator[str]:
    """A sentence if the surrogates were never checked."""
    if study.surrogate is not None and kept_proof(folder) is None:
        yield f"its surrogates are not checked: hydro check-surrogate {file} takes some seconds"
