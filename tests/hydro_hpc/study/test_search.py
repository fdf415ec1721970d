from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hydro_hpc.errors import StudyError
from hydro_hpc.study.description import StudyDescription
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Search
from hydro_hpc.study.space import choice, integer, log_uniform, uniform
from hydro_hpc.study.trial import Trial, trial_seed


def description(**changes: Any) -> StudyDescription:
    facts: dict[str, Any] = {
        "name": "s",
        "space": {
            "lr": log_uniform(1e-4, 1e-1),
            "drop": uniform(0, 0.5),
            "width": integer(8, 64, log=True),
            "act": choice("relu", "tanh", None),
        },
        "direction": "maximize",
        "search": "random",
        "pruner": "none",
        "trials": 6,
        "seed": 0,
        "settings": {},
    }
    return StudyDescription(**(facts | changes))


def open_search(directory: Path, **changes: Any) -> Search:
    return Search(description(**changes), StudyFolder(directory, "s"))


def ask(search: Search) -> Trial:
    trial = search.ask()
    assert trial is not None
    return trial


def run_all(search: Search) -> list[Trial]:
    """Asks for every trial that is left; the value is a function of lr."""
    trials = []
    while (trial := search.ask()) is not None:
        search.tell(trial.number, -abs(math.log(trial.params["lr"] / 1e-2)))
        trials.append(trial)
    return trials


def test_trials_come_from_the_space_with_numbers_and_seeds_of_their_own(tmp_path: Path) -> None:
    trials = run_all(open_search(tmp_path))
    assert [t.number for t in trials] == list(range(6))
    assert [t.seed for t in trials] == [trial_seed(0, n) for n in range(6)]
    assert len({t.seed for t in trials}) == 6
    for trial in trials:
        assert 1e-4 <= trial.params["lr"] <= 1e-1
        assert 0 <= trial.params["drop"] <= 0.5
        assert isinstance(trial.params["width"], int)
        assert trial.params["act"] in ("relu", "tanh", None)


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_the_same_seed_gives_the_same_trials_also_across_a_restart(
    tmp_path: Path, kind: str
) -> None:
    whole = run_all(open_search(tmp_path / "whole", search=kind, trials=14))
    first = open_search(tmp_path / "parts", search=kind, trials=12)
    parts = run_all(first)
    first.close()
    parts += run_all(open_search(tmp_path / "parts", search=kind, trials=14))
    assert parts == whole
    other = run_all(open_search(tmp_path / "other", search=kind, trials=14, seed=1))
    assert [t.params for t in other] != [t.params for t in whole]


def test_tpe_finds_better_hyperparameters_than_it_started_with(tmp_path: Path) -> None:
    search = open_search(tmp_path, search="tpe", trials=40)
    distances = [abs(math.log(t.params["lr"] / 1e-2)) for t in run_all(search)]
    assert sum(distances[-10:]) < 0.7 * sum(distances[:10])


def test_results_count_every_ending_and_name_the_best(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    trials = [ask(search) for _ in range(6)]
    search.tell(0, 0.5)
    search.tell(1, 0.9)
    search.tell(2, None, state="failed", reason="its loss was not finite in epoch 0")
    search.tell(3, None, state="pruned")
    search.tell(4, float("nan"))
    results = search.results()
    counts = (results.completed, results.pruned, results.failed, results.in_work)
    assert counts == (2, 1, 2, 1)
    assert results.best is not None
    assert (results.best.number, results.best.value) == (1, 0.9)
    assert (results.best.params, results.best.seed) == (trials[1].params, trials[1].seed)
    assert search.outcome(2) == "fail: its loss was not finite in epoch 0"
    assert search.outcome(4) == "fail: its value is nan"
    assert not search.is_done()
    search.tell(5, 0.1)
    assert search.is_done()
    assert search.ask() is None


def test_a_result_told_twice_counts_once(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    ask(search)
    assert search.tell(0, 0.5)
    assert not search.tell(0, 0.7)
    assert not search.tell(0, None, state="failed")
    assert search.results().completed == 1
    assert search.outcome(0) == "0.5"


def test_the_lowest_value_is_best_when_it_is_minimized(tmp_path: Path) -> None:
    search = open_search(tmp_path, direction="minimize")
    for value in (3.0, 1.0, 2.0):
        search.tell(ask(search).number, value)
    best = search.results().best
    assert best is not None
    assert best.value == 1.0


def test_a_bad_trial_is_pruned_and_a_good_one_is_not(tmp_path: Path) -> None:
    search = open_search(tmp_path, pruner="median", trials=8)
    for _ in range(5):
        trial = ask(search)
        assert not any(search.report(trial.number, epoch, 0.5 + epoch / 10) for epoch in range(4))
        search.tell(trial.number, 0.9)
    bad, good = ask(search), ask(search)
    assert search.report(bad.number, 2, 0.1)
    assert not search.report(good.number, 2, 0.95)
    assert search.report(bad.number, 2, 0.1)  # repeated after a restart of the trial


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first = open_search(tmp_path)
    with pytest.raises(StudyError, match="is in use by another process"):
        open_search(tmp_path)
    first.close()
    open_search(tmp_path).close()


def test_a_folder_of_another_study_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    run_all(search)
    search.close()
    with pytest.raises(StudyError, match="holds a study of another space and seed"):
        open_search(tmp_path, space={"lr": uniform(0, 1)}, seed=3)
    assert open_search(tmp_path).results().completed == 6


def test_an_unreadable_description_is_one_sentence(tmp_path: Path) -> None:
    open_search(tmp_path).close()
    StudyFolder(tmp_path, "s").description.write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="cannot be read; move the folder away"):
        open_search(tmp_path)


def test_optuna_itself_can_open_the_journal(tmp_path: Path) -> None:
    """So optuna-dashboard can, too."""
    run_all(open_search(tmp_path))
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "s.hydro" / "journal.log")))
    study = optuna.load_study(study_name="s", storage=storage)
    assert [t.number for t in study.trials] == list(range(6))
    assert set(study.best_params) == {"lr", "drop", "width", "act"}


CHILD = """
import json, sys
from pathlib import Path
from hydro_hpc.study.description import StudyDescription
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.search import Search
search = Search(StudyDescription.from_json(sys.argv[1]), StudyFolder(Path(sys.argv[2]), "s"))
search.tell(search.ask().number, 0.25)
for trial in [search.ask(), search.ask()]:
    print(json.dumps([trial.number, trial.seed, trial.params]), flush=True)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.processes
def test_after_a_kill_trials_in_work_come_again_and_results_stay(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, description().to_json(), str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(3)]
        child.send_signal(signal.SIGKILL)
    assert lines[2] == "ready\n"
    search = open_search(tmp_path)
    assert search.results().in_work == 2
    again = [ask(search), ask(search)]
    assert [[t.number, t.seed, t.params] for t in again] == [json.loads(x) for x in lines[:2]]
    for trial in [*again, *(ask(search) for _ in range(3))]:
        assert search.tell(trial.number, 0.5)
    assert search.ask() is None
    results = search.results()
    assert (results.completed, results.in_work) == (6, 0)


def test_a_journal_cut_anywhere_opens_and_loses_no_finished_line(tmp_path: Path) -> None:
    """A process may die between any two bytes of what it writes."""
    search = open_search(tmp_path, trials=2)
    run_all(search)
    search.close()
    journal = tmp_path / "s.hydro" / "journal.log"
    whole = journal.read_bytes()
    ends = [n for n, byte in enumerate(whole) if byte == ord("\n")]
    start = ends[0] + 1  # the study itself exists
    for cut in sorted({*ends, *range(start, len(whole), 37)}):
        journal.write_bytes(whole[:cut])
        search = open_search(tmp_path, trials=2)
        run_all(search)
        assert search.results().completed == 2
        search.close()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "s.hydro").write_text("a file")
    with pytest.raises(StudyError, match="cannot be written"):
        open_search(tmp_path)


def test_the_journal_is_on_disk_before_tell_returns(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    ask(search)
    size = os.path.getsize(tmp_path / "s.hydro" / "journal.log")
    search.tell(0, 0.5)
    assert os.path.getsize(tmp_path / "s.hydro" / "journal.log") > size


def test_a_journal_lock_of_a_killed_process_is_broken_at_once(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    run_all(search)
    search.close()
    (tmp_path / "s.hydro" / "journal.log.lock").symlink_to("where/the/folder/was/journal.log")
    assert len(run_all(open_search(tmp_path, trials=7))) == 1
