"""`Study.run`: all trials of a study in this process, one after the other, without bubbles."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from hydro_hpc.study import alone
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.proof import failings, prove
from hydro_hpc.study.search import Results, Search
from hydro_hpc.study.trial import Trial, TrialFailedError

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study


class _PrunedError(Exception):
    """The search gives this trial up."""


def run_study(study: Study, directory: Path) -> Results:
    """Runs what is left of a study, printing a line for each trial."""
    study.check()
    folder = StudyFolder(directory, study.name)
    search = Search(study.description, folder)
    try:
        study.keep_rules(folder.rules)
        said = [*study.surrogate_lines(), *study.surrogate_warnings()]
        if (change := prove(study, folder)) and search.results().completed:
            said.append(
                f"the model {change} its surrogates were checked; earlier trials may be of another"
            )
        for line in [*said, *failings(study, folder, "STUDY")]:
            print(f"study {study.name}: {line}", flush=True)
        while (trial := search.ask()) is not None:
            _run_trial(study, search, folder, trial)
        results = search.results()
    finally:
        search.close()
    for line in results.at_edges:
        print(f"study {study.name}: {line}", flush=True)
    print(summary(study.name, results), flush=True)
    return results


def summary(name: str, results: Results) -> str:
    """Returns the last line of a study for people."""
    counts = f"{results.completed} completed, {results.pruned} pruned, {results.failed} failed"
    if results.best is None:
        return f"study {name}: {counts}; no trial completed"
    best = results.best
    return f"study {name}: {counts}; best is trial {best.number}: {best.value:.6g} {best.params}"


def _run_trial(study: Study, search: Search, folder: StudyFolder, trial: Trial) -> None:
    """Trains one trial and tells its result, whatever the user's code does."""

    def epoch_end(epoch: int, value: float) -> None:
        if search.report(trial.number, epoch, value):
            raise _PrunedError

    may_prune = study.pruner != "none"
    try:
        value = alone.train(
            study, trial.params, trial.seed, epoch_end=epoch_end if may_prune else None
        )
    except _PrunedError:
        search.tell(trial.number, None, state="pruned")
    except TrialFailedError as error:
        search.tell(trial.number, None, state="failed", reason=str(error))
    except Exception as error:
        log = folder.write_log(trial.number, traceback.format_exc())
        reason = f"{type(error).__name__}: {error} (traceback in {log})"
        search.tell(trial.number, None, state="failed", reason=reason)
    else:
        search.tell(trial.number, value)
    print(f"trial {trial.number}: {search.outcome(trial.number)}  {trial.params}", flush=True)
