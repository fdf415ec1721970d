"""How a study stands, read from its folder without taking it from the process that runs it."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hydro_hpc.errors import StudyError
from hydro_hpc.study.description import StudyDescription
from hydro_hpc.study.folder import spoiled
from hydro_hpc.study.trial import trial_seed

if TYPE_CHECKING:
    from hydro_hpc.study.folder import StudyFolder
    from hydro_hpc.study.space import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trial that completed, with the value that its own model reached."""

    number: int
    value: float
    params: Params
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`candidates`: the best first. `ended` counts failed and pruned trials, too."""

    planned: int
    ended: int
    in_work: int
    failed: int
    why_failed: str  # the last of these
    candidates: tuple[Candidate, ...]
    is_running: bool  # a process has the study in work


def read_standing(folder: StudyFolder, description: StudyDescription) -> Standing:
    """StudyError if the study has not run here, or the folder holds another one."""
    for path in (folder.path, folder.description, folder.journal):
        if not path.exists():
            raise StudyError(
                f"study {description.name} has not run yet: {path} is not there; run it first"
            )
    folder.check_identity(description)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    is_running = _is_held(folder)  # first: a study that ends meanwhile is read once more
    try:
        storage = JournalStorage(JournalFileBackend(str(folder.journal)))
        study = optuna.load_study(study_name=description.name, storage=storage)
    except KeyError:  # the file is there, its first line is not
        trials = []
    except ValueError:  # of JSON
        raise StudyError(spoiled(folder)) from None
    else:
        trials = study.get_trials(deepcopy=False)
    return _standing(trials, description, is_running)


def _standing(
    trials: list[FrozenTrial], description: StudyDescription, is_running: bool
) -> Standing:
    sign = -1.0 if description.direction == "maximize" else 1.0
    candidates = [
        Candidate(
            number=trial.number,
            value=trial.value,
            params=trial.params,
            seed=trial_seed(description.seed, trial.number),
        )
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value is not None
    ]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    return Standing(
        planned=description.trials,
        ended=sum(trial.state.is_finished() for trial in trials),
        in_work=sum(trial.state == TrialState.RUNNING for trial in trials),
        failed=len(failed),
        why_failed=failed[-1].user_attrs.get("reason", "no reason given") if failed else "",
        candidates=tuple(sorted(candidates, key=lambda c: (sign * c.value, c.number))),
        is_running=is_running,
    )


def require_candidate(name: str, standing: Standing) -> None:
    """StudyError if there is nothing to transfer."""
    if standing.candidates:
        return
    if standing.ended and standing.failed == standing.ended:
        raise StudyError(
            f"study {name}: all {standing.ended} trials that ended have failed, so there is "
            f"nothing to transfer; the last one because {standing.why_failed}"
        )
    raise StudyError(
        f"study {name} has no finished trial yet ({standing.in_work} in work); "
        "wait for one, or run the study"
    )


def _is_held(folder: StudyFolder) -> bool:
    """Looks at the lock of the process that runs the study, for less than it takes to start one."""
    try:
        with (folder.path / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
